"""How a stage ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a stage leaves behind. `first` and `last`: held-out metrics before and after training."""

    step: int
    is_finished: bool
    folder: Path
    export: Path | None
    seconds: Mapping[str, float] = field(default_factory=dict)
    first: Mapping[str, float] = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)
