"""`wutong config`: what a recipe resolves to, and every key that a recipe may hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from configs.dump import dump_run, flow
from configs.keys import ALL_STAGES, STAGES, Key, all_keys, stages_with
from configs.load import load_run

_PIPE_WIDTH = 160  # of the table where there is no terminal to measure


def config(
    recipe: Annotated[Path | None, typer.Argument(help="a YAML file; configs/ has examples")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="settings to change, as dotted.key=value")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="list every key: type, range, default, meaning")] = False,
) -> None:
    """Print a recipe with all its defaults and overrides, or the list of all keys.

    Relative paths in a recipe start at the current folder. `${env:NAME}` stands for an environment variable.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    if schema:
        console.print(_schema_table(all_keys(ALL_STAGES)))
        return
    if recipe is None:
        raise typer.BadParameter("name a recipe, or ask for --schema")
    text = dump_run(load_run(recipe, overrides or ()))
    if console.is_terminal:
        console.print(Syntax(text, "yaml", background_color="default", word_wrap=True))
    else:
        print(text, end="")


def _schema_table(keys: Mapping[str, Key]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("key", "value", "default", "meaning"):
        table.add_column(column, overflow="fold", no_wrap=column == "key")
    for key in keys.values():
        is_of_all = len(stages_with(key.path)) == len(STAGES)
        only = "" if is_of_all else f" ({', '.join(stages_with(key.path, ALL_STAGES))} only)"
        style = "bold cyan" if key.is_section else "cyan"
        table.add_row(f"[{style}]{escape(key.path)}[/]", _value(key), _default(key), escape(key.description + only))
    return table


def _value(key: Key) -> str:
    return "" if key.is_section else escape(key.want)


def _default(key: Key) -> str:
    if key.is_required:
        return "required"
    return "" if key.is_section else escape(flow(key.default))
