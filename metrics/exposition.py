"""Metrics as Prometheus sees them: names, labels, and what a run tells between its steps.

Ray puts `ray_` before each name, and `_total` behind those of counters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from metrics.names import TABLE, metric

# Of these, Prometheus counts the whole run; of all others it keeps the newest value.
COUNTED: Final = frozenset(
    {"score/<status>", "response/tokens", "group/dropped", "optimizer/skipped_steps", "critic/skipped_steps"}
)
# Spaces that are one series with a label each, beside the families of the table.
_LABELLED: Final = {"time": ("wutong_time_seconds", "part"), "share": ("wutong_share", "part")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposed:
    """A name that Prometheus knows, with its labels beside those of the run."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    is_counter: bool = False

    @property
    def series(self) -> str:
        """The name that queries use."""
        return f"ray_{self.name}_total" if self.is_counter else f"ray_{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A value of one series. That of a counter counts from the start of whoever counted it."""

    exposed: Exposed
    value: float
    labels: Mapping[str, str]


def exposed_metric(name: str) -> tuple[Exposed, dict[str, str]]:
    """How a metric of a step is named, and which labels it has. ValueError when the table has no such metric."""
    row = metric(name)
    space, _, rest = name.partition("/")
    if row.name in TABLE and row.name != name:  # of a family
        label = row.name.partition("<")[2].rstrip(">")
        found, labels = f"wutong_{space}", {label: rest}
    elif space in _LABELLED:
        found, label = _LABELLED[space]
        labels = {label: rest}
    else:
        found, labels = f"wutong_{space}_{rest}", {}
    meaning = f"{row.meaning} [{row.unit}]" if row.unit else row.meaning
    if space in _LABELLED:
        meaning = f"{space} of each part of a step"
    return Exposed(name=found, meaning=meaning, labels=tuple(labels), is_counter=row.name in COUNTED), labels


def _gauge(name: str, meaning: str, *labels: str) -> Exposed:
    return Exposed(name=f"wutong_{name}", meaning=meaning, labels=labels)


def _counter(name: str, meaning: str, *labels: str) -> Exposed:
    return Exposed(name=f"wutong_{name}", meaning=meaning, labels=labels, is_counter=True)


# What a run tells about once a second, whatever a step takes.
PHASE: Final = _gauge("phase", "1 for the phase that the run is in, 0 for the others", "phase")
STEP: Final = _gauge("step", "training steps done")
STEPS: Final = _gauge("steps", "training steps that the run is to do")
STEP_AGE: Final = _gauge("step_age_seconds", "time since the last step was done")
GROUPS: Final = _gauge(
    "groups", "groups that wait for a worker, are begun, or are scored and wait for training", "place"
)
VERDICTS: Final = _gauge("verdict_jobs", "pieces of work that wait for a reward process")
WORKERS: Final = _gauge("workers", "rollout workers in each state", "state")
# No counter: one is not there before it counts, and the first restart is the news.
RESTARTS: Final = _gauge("restarts", "processes replaced: rollout workers, or all ranks of the learner", "of")
ENGINE_TOKENS: Final = _counter("engine_tokens", "response tokens that a worker's engine sampled", "worker")
ENGINE_BUSY: Final = _counter("engine_busy_seconds", "time that a worker's engine spent in its steps", "worker")
ENGINE_RUNNING: Final = _gauge("engine_requests_running", "sequences in the engine's batch", "worker")
ENGINE_WAITING: Final = _gauge("engine_requests_waiting", "sequences that wait for room in the engine", "worker")
ENGINE_KV_CACHE: Final = _gauge("engine_kv_cache_usage", "part of the engine's KV cache in use, 0 to 1", "worker")
ENGINE_PREFIX_QUERIES: Final = _counter("engine_prefix_queries", "tokens looked up in the prefix cache", "worker")
ENGINE_PREFIX_HITS: Final = _counter("engine_prefix_hits", "tokens found in the prefix cache", "worker")

LIVE: Final = tuple(value for value in list(globals().values()) if isinstance(value, Exposed))


def known_series() -> dict[str, Exposed]:
    """Everything that may be asked of Prometheus about a run, by its name there."""
    steps = [exposed_metric(name.replace("<", "").replace(">", ""))[0] for name in TABLE]
    return {each.series: each for each in (*steps, *LIVE)}
