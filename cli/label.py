"""`wutong label`: a page on which people compare responses, and what came of it."""

import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # importing pyarrow takes a moment, which other commands need not wait for
    from feedback.agreement import Labelling
    from feedback.journal import Judgement
    from feedback.pairs import Pair

console = Console()

PAIRS, JUDGEMENTS, TOKEN = "pairs.jsonl", "judgements.jsonl", "token"


def label(
    source: Annotated[Path, typer.Argument(help="a run's folder, or Parquet or JSONL with prompts and responses")],
    pairs: Annotated[int, typer.Option(min=1, help="pairs to judge, at most")] = 500,
    per_pair: Annotated[int, typer.Option(min=1, help="labellers who judge each pair")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of the page; 0: a free one")] = 0,
    export: Annotated[Path | None, typer.Option(help="write the comparisons as Parquet, and serve no page")] = None,
    report: Annotated[bool, typer.Option("--report", help="print agreement and bias, and serve no page")] = False,
) -> None:
    """Compare responses two by two on a page of this machine; each judgement is on the disk at once.

    Judgements stand in RUN/labels/ or FILE.labels/. Start it again to go on; Ctrl-C ends it.
    """
    from feedback.agreement import labelling
    from feedback.export import export_comparisons

    folder = source / "labels" if source.is_dir() else source.with_name(f"{source.name}.labels")
    if report or export is not None:
        told, judgements = _kept(folder)
        console.print(_table(labelling(judgements)))
        if export is not None:
            done = export_comparisons(told, judgements, export)
            console.print(
                f"{export}: {done.num_rows} comparisons; {done.num_undecided} pairs say nothing and are left out"
            )
        return
    _serve(source, folder, pairs, per_pair, port)


def _kept(folder: Path) -> "tuple[list[Pair], list[Judgement]]":
    from feedback.journal import read_judgements
    from feedback.pairs import load_pairs

    if not (folder / JUDGEMENTS).is_file():
        raise ValueError(f"{folder}: no judgements yet; run `wutong label` without --report and --export first")
    return load_pairs(folder / PAIRS), read_judgements(folder / JUDGEMENTS)


def _serve(source: Path, folder: Path, limit: int, per_pair: int, port: int) -> None:
    import uvicorn

    from feedback.agreement import labelling
    from feedback.app import make_app
    from feedback.desk import Desk
    from feedback.journal import Journal

    told = _begun(source, folder, limit)
    with socket.create_server(("127.0.0.1", port), backlog=64) as server:
        token = _token(folder / TOKEN)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/?token={token}"
        console.print(f"{len(told)} pairs; judge them at\n\n  {address}\n", soft_wrap=True, highlight=False)
        journal = Journal(folder / JUDGEMENTS)
        app = make_app(Desk(told, journal, per_pair), token)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[server])
    console.print(_table(labelling(journal.judgements)))
    journal.close()


def _begun(source: Path, folder: Path, limit: int) -> "list[Pair]":
    """The pairs of an earlier start, so that judgements go on to fit them; else drawn now."""
    from feedback.pairs import load_pairs, read_pairs, write_pairs

    if (folder / PAIRS).is_file():
        return load_pairs(folder / PAIRS)
    told = read_pairs(source, limit)
    folder.mkdir(mode=0o750, exist_ok=True)
    write_pairs(told, folder / PAIRS)
    return told


def _token(path: Path) -> str:
    """The secret in the page's address: the same at each start, so that open pages go on; for its owner's eyes only."""
    if not path.is_file():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24))
    return path.read_text()


def _table(found: "Labelling") -> Table:
    table = Table("", "", show_header=False, title="judgements")
    table.add_row("judgements of pairs", f"{found.num_judgements} of {found.num_pairs}")
    for choice, name in (("left", "response 1"), ("right", "response 2"), ("tie", "tie"), ("both_bad", "both bad")):
        table.add_row(name, str(found.choices.get(choice, 0)))
    for labeller, count in sorted(found.by_labeller.items()):
        table.add_row(f"by {labeller}", str(count))
    table.add_row("median time", f"{found.median_seconds:.1f} s")
    table.add_row("agreement", f"{found.agreement:.1%} of pairs of judgements, alpha {found.alpha:.2f}")
    bias = " (the side sways them)" if found.is_biased else ""
    table.add_row("left preferred", f"{found.left_share:.1%}, 95 % {found.left_low:.1%} to {found.left_high:.1%}{bias}")
    return table
