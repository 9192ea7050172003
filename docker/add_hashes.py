"""Pins with the hashes of every file that may be installed for them: `python docker/add_hashes.py LOCK PYTHON > NEW`.

LOCK has lines `name==version`, or is such a lock; PYTHON is its version, like 3.11, on Linux and x86_64. Wheels
that fit are taken, else the source, as PyPI lists them. What PyPI has not (torch==2.13.0+cpu) keeps the hashes it has.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import requests
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)((?: *\\\n *--hash=sha256:[0-9a-f]{64})*)", re.MULTILINE)
MANYLINUX = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)]
PLATFORMS = [*MANYLINUX, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]


def tags_of(python: str) -> frozenset[Tag]:
    """What a wheel may be made for."""
    major, minor = (int(part) for part in python.split("."))
    interpreter = f"cp{major}{minor}"
    mine = cpython_tags((major, minor), platforms=PLATFORMS)
    return frozenset([*mine, *compatible_tags((major, minor), interpreter, PLATFORMS)])


def files_of(name: str) -> Iterator[tuple[str, str]]:
    """Name and SHA-256 of each file of a package."""
    accept = {"Accept": "application/vnd.pypi.simple.v1+json"}
    answer = requests.get(f"https://pypi.org/simple/{canonicalize_name(name)}/", headers=accept, timeout=60)
    answer.raise_for_status()
    yield from ((entry["filename"], entry["hashes"]["sha256"]) for entry in answer.json()["files"])


def hashes_of(name: str, version: str, tags: frozenset[Tag]) -> list[str]:
    """Of the wheels that fit, sorted; of the source, where none does."""
    wheels, sources = [], []
    for file, sha256 in files_of(name):
        if file in {f"{stem}-{version}.tar.gz" for stem in (name, name.replace("-", "_"), canonicalize_name(name))}:
            sources.append(sha256)
        try:
            _, found, _, fits = parse_wheel_filename(file)
        except InvalidWheelFilename:
            continue
        if str(found) == version and fits & tags:
            wheels.append(sha256)
    if not (wheels or sources):
        raise SystemExit(f"{name}=={version}: no file of it fits; correct the pin")
    return sorted(wheels or sources)


def main() -> None:
    """Prints the lock."""
    path, python = sys.argv[1:]
    tags = tags_of(python)
    for name, version, known in PIN.findall(Path(path).read_text()):
        hashes = re.findall(r"[0-9a-f]{64}", known) if "+" in version else hashes_of(name, version, tags)
        sys.stdout.write(" \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{each}" for each in hashes)]) + "\n")


if __name__ == "__main__":
    main()
