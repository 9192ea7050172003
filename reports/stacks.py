"""Where the steps' time went and how verdicts came about, as layers that are shown on top of each other."""

from collections.abc import Mapping
from dataclasses import dataclass

from metrics.names import PHASES
from reports.charts import Legend
from reports.run_data import RunData

# Colours of the style sheet; phases keep theirs in the timeline. Generation blue, training orange.
_PHASE_COLOURS = {
    phase: place
    for place, phase in enumerate(("generate", "train", "score", "sync", "evaluate", "save", "data", "logprobs"))
}
OTHER_COLOUR = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One metric, with a value at every step of its stack."""

    name: str
    metric: str
    colour: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Layers over the same steps. `whole`: step -> what they are parts of, where it was measured."""

    run: int
    title: str
    unit: str
    steps: tuple[int, ...]
    layers: tuple[Layer, ...]
    whole: Mapping[int, float]

    @property
    def legend(self) -> list[Legend]:
        """Which layer is which."""
        return [Legend(label=layer.name, classes=f"layer s{layer.colour}") for layer in self.layers]


def phase_colour(phase: str) -> int:
    """The colour of a phase; one for all that are not in metrics/names.py."""
    return _PHASE_COLOURS.get(phase, OTHER_COLOUR)


def phase_stack(run: RunData, number: int) -> Stack | None:
    """Seconds of each step by phase; None for a run that has not timed a step."""
    names = {f"time/{phase}": phase for phase in (*_PHASE_COLOURS, *(p for p in PHASES if p not in _PHASE_COLOURS))}
    colours = {phase: phase_colour(phase) for phase in (*PHASES, "other")}
    return _stack(run, number, f"Seconds by phase: {run.label}", {**names, "time/other": "other"}, colours)


def verdict_stack(run: RunData, number: int) -> Stack | None:
    """Samples of each step whose verdict is not `ok`, by status; None where there are none."""
    names = {name: name.partition("/")[2] for name in run.series if name.startswith("score/") and name != "score/ok"}
    occurring = {name: status for name, status in names.items() if any(v for _, v in run.series[name].finite)}
    colours = {status: place for place, status in enumerate(occurring.values())}
    return _stack(run, number, f"Verdicts other than ok: {run.label}", occurring, colours)


def _stack(run: RunData, number: int, title: str, names: Mapping[str, str], colours: Mapping[str, int]) -> Stack | None:
    present = {name: label for name, label in names.items() if name in run.series}
    steps = tuple(sorted({step for name in present for step in run.series[name].steps}))
    if not steps:
        return None
    layers = []
    for name, label in present.items():
        found = dict(run.series[name].finite)
        values = tuple(found.get(step, 0.0) for step in steps)  # a phase that a step lacks took no time
        if any(values):
            layers.append(Layer(name=label, metric=name, colour=colours[label], values=values))
    is_time = any(name.startswith("time/") for name in present)
    whole = dict(run.series["time/step"].finite) if is_time and "time/step" in run.series else {}
    unit = "seconds" if is_time else "samples"
    return Stack(run=number, title=title, unit=unit, steps=steps, layers=tuple(layers), whole=whole)
