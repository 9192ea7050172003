"""Which nodes of the cluster a role's processes are put on, and how much of a GPU each takes."""

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from configs.schema.base import Section

Strategy = Literal["pack", "spread", "strict_pack", "strict_spread"]

_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL = re.compile(rf"([A-Za-z0-9.-]{{1,253}}/)?{_NAME}")
_WANTED = re.compile(rf"!?{_NAME}|!?in\({_NAME}(, ?{_NAME})*\)")


class PlacementConfig(Section):
    """Where a role's processes are put."""

    strategy: Strategy = "pack"
    """On few nodes or on many, as far as there is room; strict_: all on one, or each on its own."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of its nodes (`ray start --labels`): a value, `!value`, `in(a, b)` or `!in(a, b)`."""
    gpu_share: float = Field(default=1.0, gt=0, le=1)
    """Part of a GPU that each process takes, where there are any; below 1, several roles use one."""

    @model_validator(mode="after")
    def _labels_can_be_selected(self) -> "PlacementConfig":
        for key, value in self.labels.items():
            if not _LABEL.fullmatch(key) or not _WANTED.fullmatch(value):
                raise ValueError(
                    f"labels: {key}: {value}: not a label of Ray's; write `accelerator: h100`, `accelerator: !h100` "
                    "or `accelerator: in(h100, h200)`"
                )
        return self

    def check_group(self, num_ranks: int, key: str) -> None:
        """ValueError where ranks that talk to each other may be given the same GPU, which NCCL refuses."""
        if num_ranks > 1 and self.gpu_share <= 0.5:
            raise ValueError(
                f"placement.gpu_share={self.gpu_share:g} with {key}={num_ranks}: two of the ranks may be given one "
                "GPU, which NCCL refuses; set gpu_share above 0.5"
            )

    @property
    def is_special(self) -> bool:
        """Whether it asks more of nodes than room."""
        return self.strategy != "pack" or bool(self.labels)

    def __str__(self) -> str:
        """Strategy and labels: `spread, accelerator: h100`."""
        return ", ".join([self.strategy, *(f"{label}: {wanted}" for label, wanted in self.labels.items())])

    def admits(self, node: Mapping[str, str]) -> bool:
        """Whether a node with these labels has what is wanted."""
        return all(_has(node.get(key), wanted) for key, wanted in self.labels.items())


def _has(value: str | None, wanted: str) -> bool:
    choices = wanted.removeprefix("!").removeprefix("in(").removesuffix(")").split(",")
    is_there = value in [choice.strip() for choice in choices]
    return is_there != wanted.startswith("!")
