"""The check before an installation: one line that says what is missing and how to mend it."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docker" / "check_machine.sh"


def check(python: str, cpuinfo: Path) -> tuple[int, list[str]]:
    environment = {**os.environ, "CPUINFO": str(cpuinfo)}
    done = subprocess.run(["sh", SCRIPT, python], capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stderr.splitlines()


def test_a_machine_with_avx2_and_python_311_passes(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu avx avx2\n")
    assert check(sys.executable, cpuinfo) == (0, [])


def test_a_machine_without_avx2_is_told_so_in_one_line(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu avx\n")
    code, (line,) = check(sys.executable, cpuinfo)
    assert code == 2 and "no AVX2" in line and "use a machine that has it" in line


def test_a_missing_python_is_told_so_in_one_line(tmp_path: Path) -> None:
    code, (line,) = check("python-that-is-not-there", tmp_path / "unread")
    assert code == 2 and "is not Python 3.11" in line and "make PYTHON=" in line
