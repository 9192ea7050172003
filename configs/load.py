"""Loading a recipe: file, then overrides, then environment, then the schema, then the algorithm's row."""

import re
from collections.abc import Sequence
from pathlib import Path

from algorithms.table import check_group_size, resolve
from configs.dump import dump_run
from configs.errors import ConfigError
from configs.overrides import apply_overrides
from configs.placeholders import fill_placeholders
from configs.schema import RlRun, Run
from configs.validation import validate
from configs.yaml_source import Document, read_recipe

__all__ = ["ConfigError", "dump_run", "load_run"]


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> Run:
    """The run that a recipe describes, with `dotted.key=value` overrides set on top, in order.

    Relative paths in a recipe (`model.path`, `data.train`) start at the current folder, not at the
    recipe's; whether they exist is not checked here. ConfigError holds one line for each problem.
    """
    document = apply_overrides(read_recipe(Path(path)), overrides)
    if "stages" in document.data and "stage" not in document.data:
        raise ConfigError([f"{path}: a recipe of several stages; `wutong run {path}` runs it"])
    document, hidden = fill_placeholders(document)
    run = validate(document, hidden)
    if isinstance(run, RlRun):
        check_algorithm(run, document)
    return run


def check_algorithm(run: RlRun, document: Document) -> None:
    """Refuse what the algorithm's row can't use; the table's messages begin with the key."""
    try:
        check_group_size(resolve(run.algorithm), run.rollout.group_size)
    except ValueError as error:
        key = re.match(r"[a-z_.]*", str(error))
        origin = document.origin(tuple(key[0].split(".")) if key else ())
        raise ConfigError([f"{error} ({origin})"]) from error
