"""The cases of the contest: two sizes of model, each with short and with long-tailed responses."""

from dataclasses import dataclass
from pathlib import Path

RECIPE = "configs/arithmetic/grpo.yaml"
SIZES = ("1m", "10m")
SHAPES = ("short", "tailed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A policy after its SFT, and the problems it learned from."""

    size: str
    shape: str

    @property
    def name(self) -> str:
        """As in tables and files."""
        return f"{self.size}-{self.shape}"

    def settings(self, models: Path) -> list[str]:
        """Overrides of the recipe; `models`: the folder of benchmarks.models."""
        return [f"model.path={models / self.size / self.shape / 'export'}", *data_settings(self.shape, models)] + (
            ["rollout.sampling.max_response_tokens=256"] if self.shape == "tailed" else []
        )


def data_settings(shape: str, models: Path) -> list[str]:
    """Of the recipes of SFT and of GRPO: short problems are the recipe's own."""
    if shape == "short":
        return []
    return [
        "data.arithmetic=null",
        f"data.train={models / 'mixed.parquet'}",
        f"data.eval={models / 'held_out.parquet'}",
    ]


CASES = {case.name: case for case in (Case(size=size, shape=shape) for size in SIZES for shape in SHAPES)}
