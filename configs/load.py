"""Loading a recipe: file, then overrides, then environment, then the schema."""

from collections.abc import Sequence
from pathlib import Path

from configs.dump import dump_run
from configs.errors import ConfigError
from configs.overrides import apply_overrides
from configs.placeholders import fill_placeholders
from configs.schema import Run
from configs.validation import validate
from configs.yaml_source import read_recipe

__all__ = ["ConfigError", "dump_run", "load_run"]


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> Run:
    """The run that a recipe describes, with `dotted.key=value` overrides set on top, in order.

    Relative paths in a recipe (`model.path`, `data.train`) start at the current folder, not at the
    recipe's; whether they exist is not checked here. ConfigError holds one line for each problem.
    """
    document = apply_overrides(read_recipe(Path(path)), overrides)
    document, hidden = fill_placeholders(document)
    return validate(document, hidden)
