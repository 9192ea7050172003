"""A local cluster that starts beside other work. Each in a process of its own: the tests' own cluster is another."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, folder: Path) -> list[str]:
    """What it prints, started in `folder`."""
    head = "import sys; sys.path.insert(0, sys.argv[1])\n"
    command = [sys.executable, "-c", head + textwrap.dedent(script), str(ROOT)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("seconds_of_reading", [0, 8])
def test_what_is_begun_for_nothing_is_ended(tmp_path: Path, seconds_of_reading: int) -> None:
    assert run(
        f"""
        import psutil, ray, time
        from cluster.session import session_begun
        from configs.schema import ClusterConfig

        try:
            with session_begun(ClusterConfig(), num_cpus=1):
                time.sleep({seconds_of_reading})
                raise ValueError("wrong input")
        except ValueError as error:
            print(error, ray.is_initialized(), psutil.Process().children(recursive=True))
        """,
        tmp_path,
    ) == ["wrong", "input", "False", "[]"]


def test_a_signal_while_it_starts_and_after_is_the_callers(tmp_path: Path) -> None:
    assert run(
        """
        import os, ray, signal, time
        from cluster.session import session_begun
        from configs.schema import ClusterConfig

        received = []
        signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
        with session_begun(ClusterConfig(), num_cpus=1) as session:
            os.kill(os.getpid(), signal.SIGTERM)
            while not ray.is_initialized():
                time.sleep(0.1)
            time.sleep(2)  # what Ray installs comes last
            os.kill(os.getpid(), signal.SIGTERM)
            with session():
                os.kill(os.getpid(), signal.SIGTERM)
        print(len(received))
        """,
        tmp_path,
    ) == ["3"]


def test_workers_find_our_modules_and_nothing_of_the_folder_they_were_started_from(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("raise RuntimeError('a user has a module of this name')")
    (tmp_path / "theirs.py").write_text("")
    assert run(
        """
        import os, ray
        from cluster.session import ray_session
        from configs.schema import ClusterConfig

        sys.path = [path for path in sys.path if path not in ("", os.getcwd())]
        with ray_session(ClusterConfig(), num_cpus=1):

            @ray.remote
            def look():
                import importlib.util, rewards
                return rewards.__path__[0], importlib.util.find_spec("theirs")

            print(*ray.get(look.remote()))
        """,
        tmp_path,
    ) == [str(ROOT / "rewards"), "None"]
