"""An evaluation's results as tables: a row a data set, and what k samples are worth."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Column, Table

_BY_K = ("pass@{k}", "maj@{k}", "best-of-{k}", "best-of-{k} score")

Numbers = Mapping[str, Mapping[str, float | None]]


def tables(document: Mapping[str, Any]) -> list[Table]:
    """For each model its data sets and the numbers by k; then how two models compare."""
    num_samples = document["settings"]["samples"]
    found = []
    for model in document["models"]:
        found.append(_sets_table(model, num_samples))
        if num_samples > 1:
            found.append(_k_table(model["mean"]))
    if "comparison" in document:
        found.append(_comparison_table(document["comparison"], [model["path"] for model in document["models"]]))
    return found


def warnings(document: Mapping[str, Any]) -> list[str]:
    """What went wrong with single responses, a line for each data set and kind."""
    meanings = {
        "unjudged": "of {responses} responses could not be judged, and count as wrong",
        "uncompared": "comparisons of answers failed, and count as different answers",
        "unscored": "of {responses} responses the reward model could not score; best-of-n is without their prompts",
    }
    return [
        f"{model['path']} on {name}: {data[key]} {meaning.format(responses=data['responses'])}"
        for model in document["models"]
        for name, data in model["data"].items()
        for key, meaning in meanings.items()
        if data[key]
    ]


def _sets_table(model: Mapping[str, Any], num_samples: int) -> Table:
    rows = {name: (str(data["prompts"]), data["numbers"]) for name, data in model["data"].items()}
    if len(rows) > 1:
        rows["mean of the sets"] = ("", model["mean"])
    wanted = ["greedy accuracy", "beam accuracy", "sampled accuracy", *(name.format(k=num_samples) for name in _BY_K)]
    names = [name for name in wanted if name in model["mean"] and not name.endswith("score")]
    table = _table("data", "prompts", *names, title=escape(model["path"]))
    for name, (count, numbers) in rows.items():
        table.add_row(escape(name), count, *(cell(column, numbers) for column in names))
    return table


def _k_table(numbers: Numbers) -> Table:
    """What more samples give, over all data sets."""
    ks = [int(name.removeprefix("pass@")) for name in numbers if name.startswith("pass@")]
    names = [name for name in _BY_K if name.format(k=ks[-1]) in numbers]
    table = _table("k", *(name.replace("{k}", "k") for name in names))
    for k in ks:
        table.add_row(str(k), *(cell(name.format(k=k), numbers) for name in names))
    return table


def _comparison_table(comparison: Mapping[str, Any], paths: Sequence[str]) -> Table:
    shown = [name for name in comparison["all"]["differences"] if name.endswith("accuracy")]
    won = list(comparison["all"]["win_rates"])
    table = _table(
        "data", "only first right", "only second right", "McNemar's p", *shown, *won,
        title=escape(f"{paths[0]} less {paths[1]}"),
    )  # fmt: skip
    rows = comparison["data"] | ({"all": comparison["all"]} if len(comparison["data"]) > 1 else {})
    for name, row in rows.items():
        counts = (str(row["only_first_right"]), str(row["only_second_right"]), f"{row['p_value']:.2g}")
        differences = (cell(column, row["differences"], signed=True) for column in shown)
        table.add_row(escape(name), *counts, *differences, *(cell(column, row["win_rates"]) for column in won))
    return table


def cell(name: str, numbers: Numbers, *, signed: bool = False) -> str:
    """A number over its interval; scores as they are, all else in percent. Empty where there is none."""
    estimate = numbers.get(name)
    if estimate is None or estimate["value"] is None:
        return ""
    scale, unit, digits = (1, "", 3) if name.endswith("score") else (100, "%", 1)
    value, low, high = (
        f"{scale * number:{'+' if signed else ''}.{digits}f}" if (number := estimate[end]) is not None else ""
        for end in ("value", "low", "high")
    )
    return f"{value}{unit}\n{low} to {high}"


def _table(*names: str, title: str | None = None) -> Table:
    """Nothing is cut off where the terminal is narrow."""
    return Table(*(Column(name, overflow="fold") for name in names), title=title, box=SIMPLE)
