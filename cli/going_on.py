"""Options by which a stopped run goes on, the same for `wutong train` and `wutong submit`."""

from collections.abc import Sequence
from typing import Annotated

import typer

Resume = Annotated[bool, typer.Option("--resume", help="go on from the newest checkpoint")]
Exact = Annotated[bool, typer.Option("--exact", help="with --resume: refuse what would not go on bit for bit")]
Allow = Annotated[
    list[str] | None, typer.Option("--allow", help="with --resume: a key that may differ from the checkpoint's")
]


def check_going_on(*, resume: bool, exact: bool, allow: Sequence[str] | None, trust_checkpoint: bool) -> None:
    """ValueError for an option that says how to go on where nothing does."""
    if (exact or allow or trust_checkpoint) and not resume:
        raise ValueError(
            "--exact, --allow and --trust-checkpoint say how to go on; they have no effect without --resume"
        )
