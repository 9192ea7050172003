"""Ratios to the floor that were kept, and what became worse since."""

import json
from collections.abc import Mapping
from pathlib import Path

WORSE = 0.15  # of the kept ratio; shared cores move a median of three rounds by less


def load_ratios(path: Path) -> dict[str, float]:
    """By contestant. A SystemExit that says how to make the file where it is missing."""
    if not path.exists():
        raise SystemExit(f"{path}: no ratios are kept there; keep this machine's with --store")
    return json.loads(path.read_text())["ratios"]


def store_ratios(path: Path, ratios: Mapping[str, float], machine: str) -> None:
    """Those of this machine, in place of what was kept."""
    kept = {name: round(ratio, 3) for name, ratio in ratios.items() if name != "floor"}
    path.write_text(json.dumps({"machine": machine, "ratios": kept}, indent=1) + "\n")


def worse(kept: Mapping[str, float], ratios: Mapping[str, float]) -> list[str]:
    """A line for each contestant whose ratio rose by 15 % of the kept one or more; one that was not kept is passed."""
    return [
        f"{name}: {ratios[name]:.2f} of the floor's step, {old:.2f} was kept: {ratios[name] / old - 1:.0%} worse"
        for name, old in kept.items()
        if name in ratios and ratios[name] >= old * (1 + WORSE)
    ]
