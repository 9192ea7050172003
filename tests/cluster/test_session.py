"""A local cluster of a process of its own: the tests' own cluster is another."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(script: str, folder: Path) -> list[str]:
    """What it prints, started in `folder`."""
    head = "import sys; sys.path.insert(0, sys.argv[1])\n"
    command = [sys.executable, "-c", head + textwrap.dedent(script), str(ROOT)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


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
