"""`wutong inspect`: stored samples in the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # importing pyarrow takes half a second
    from tokenizers import Tokenizer

    from reports.run_data import RunData
    from reports.samples import Sample
    from reports.tokens import Colouring

# From the strongest below zero to the strongest above: orange to blue, on which both black and white read well.
_STYLES = {
    -4: "black on rgb(232,120,40)",
    -3: "black on rgb(238,160,100)",
    -2: "black on rgb(245,197,157)",
    -1: "black on rgb(251,228,209)",
    0: "",
    1: "black on rgb(214,228,246)",
    2: "black on rgb(170,200,238)",
    3: "black on rgb(120,168,228)",
    4: "white on rgb(52,108,190)",
}
_MAX_PIECES = 4000
_TOKEN_ADVANTAGES = "tokens have advantages of their own, which stay on the ranks; shown is the reward they are made of"

console = Console()


def inspect(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    step: Annotated[int | None, typer.Argument(help="which step; by default the newest that is stored")] = None,
    worst: Annotated[bool, typer.Option("--worst", help="the lowest rewards (the default)")] = False,
    best: Annotated[bool, typer.Option("--best", help="the highest rewards")] = False,
    sample_id: Annotated[str | None, typer.Option("--id", help="the sample of this id, such as 512.3")] = None,
    num: Annotated[int, typer.Option(min=1, help="how many samples, each of another prompt")] = 3,
    color: Annotated[
        str, typer.Option(help="what colours tokens: advantage (of the sample), logprob, ratio, version")
    ] = "advantage",
) -> None:
    """Show samples of a step: prompt, response, reward with its parts, verdict, advantage.

    Hidden characters and escape sequences are written out. Ratios need the trainer's log-probs to be stored; advantages
    of single tokens never are.
    """
    from reports.recipe import has_token_advantages
    from reports.run_data import read_run
    from reports.tokens import Colouring, check_colouring, load_tokenizer

    if color not in list(Colouring):
        raise ValueError(f"--color {color}: unknown; choose one of {', '.join(Colouring)}")
    if worst + best + (sample_id is not None) > 1:
        raise ValueError("--worst, --best and --id choose different samples; give one of them")
    data = read_run(run)
    samples = _chosen(data, step, sample_id, num, is_best=best)
    tokenizer = load_tokenizer(data)
    if has_token_advantages(data.recipe):
        console.print(Text(_TOKEN_ADVANTAGES, style="dim"))
    for sample in samples:
        check_colouring(sample, Colouring(color), tokenizer)
        console.print(_panel(sample, Colouring(color), tokenizer))


def _chosen(data: "RunData", step: int | None, sample_id: str | None, num: int, *, is_best: bool) -> "Sequence[Sample]":
    from reports import samples

    stored = data.stored_steps()
    if not stored:
        raise ValueError(
            f"{data.folder}: no samples are stored; only runs of stage rl have some (logging.trajectories_every_steps)"
        )
    if step is not None and step not in stored:
        raise ValueError(f"STEP={step}: stored are the samples of {len(stored)} steps, {min(stored)} to {max(stored)}")
    if sample_id is not None:
        return [samples.with_id(data, sample_id, step)]
    path = stored[max(stored) if step is None else step]
    return samples.best(path, num) if is_best else samples.worst(path, num)


def _panel(sample: "Sample", colouring: "Colouring", tokenizer: "Tokenizer | None") -> Panel:
    from metrics.text import one_line, visible
    from reports.sample_view import facts
    from reports.tokens import pieces

    table = Table.grid(padding=(0, 2))
    for name, value in facts(sample):
        table.add_row(Text(name, style="dim"), Text(value))
    response = Text()
    cut = pieces(sample, tokenizer)
    for piece in cut[:_MAX_PIECES]:
        response.append(visible(piece.text), style=_STYLES[piece.levels.get(colouring, 0)])
    if len(cut) > _MAX_PIECES:
        response.append(f" … {len(cut) - _MAX_PIECES:,} more tokens", style="dim")
    heading = Text(f"{one_line(sample.id)}, step {sample.step}")
    body = Group(Text("prompt", style="dim"), Text(visible(sample.prompt)), Text("response", style="dim"), response)
    return Panel(Group(body, Text(), table), title=heading, title_align="left", border_style="dim")
