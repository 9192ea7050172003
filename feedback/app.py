"""The page on which people compare responses, served on this machine."""

import hmac
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field, StringConstraints
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response

from feedback.desk import Assignment, Desk, DeskError
from feedback.journal import Choice

PAGE = Path(__file__).parent / "page"
# Nothing but what this server sends: a response of a model that holds markup can't make the page load or send a thing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}

Labeller = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[\w .@-]{1,40}$")]


class Asker(BaseModel):
    """Who asks."""

    labeller: Labeller


class Given(Asker):
    """A judgement as the page sends it; `id` is the page's own, so that it may be sent twice."""

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]{36}$")]
    pair: str
    choice: Choice
    seconds: float = Field(ge=0, allow_inf_nan=False)


def make_app(desk: Desk, token: str) -> FastAPI:
    """The page at /, and what it asks. Every answer that tells of the data is for those who bear the token."""

    async def bears_token(request: Request) -> None:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "wrong or missing token: open the address that `wutong label` printed")

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Another site's name that was made to point here must not reach the page.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    guarded: list[Any] = [Depends(bears_token)]

    @app.middleware("http")
    async def with_headers(request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(DeskError)
    async def refused(request: Request, error: DeskError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=409)

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.post("/next", dependencies=guarded)
    async def next_pair(asker: Asker) -> dict[str, Any]:
        return _answer(desk, asker.labeller, desk.next(asker.labeller))

    @app.post("/judge", dependencies=guarded)
    async def judge(given: Given) -> dict[str, Any]:
        desk.take(given.labeller, given.id, given.pair, given.choice, given.seconds)
        return _answer(desk, given.labeller, desk.next(given.labeller))

    @app.post("/undo", dependencies=guarded)
    async def undo(asker: Asker) -> dict[str, Any]:
        return _answer(desk, asker.labeller, desk.undo(asker.labeller) or desk.next(asker.labeller))

    return app


def _answer(desk: Desk, labeller: str, assignment: Assignment | None) -> dict[str, Any]:
    """What the page shows next."""
    progress = desk.progress(labeller)
    numbers = {"own": progress.own, "done": progress.done, "wanted": progress.wanted}
    if assignment is None:
        return {"progress": numbers, "pair": None}
    pair, left = assignment.pair, assignment.left
    sides = {"left": pair.responses[left], "right": pair.responses[1 - left]}
    return {"progress": numbers, "pair": {"id": pair.id, "prompt": pair.shown_prompt, **sides}}
