"""Starts `wutong train`, watches it from beside, and writes what was seen as JSON. Runs in the run's own network.

python -m tests.security.watched_run FOLDER SEEN.json TOKEN
"""

import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.starts import LIGHT_WUTONG, ROOT

SECONDS_TO_RUN = 300


def main(folder: Path, seen: Path, token: str) -> None:
    with (folder / "stderr").open("w") as stderr:
        run = subprocess.Popen([*LIGHT_WUTONG, "train", "run.yaml"], cwd=folder, stderr=stderr, stdout=stderr)
    found: dict[str, Any] = {
        "listeners": {},
        "commands": [],
        "environments": {},
        "interfaces": list(psutil.net_if_addrs()),
    }
    deadline = time.monotonic() + SECONDS_TO_RUN
    while run.poll() is None and time.monotonic() < deadline:
        look(run.pid, found)
        if "jobs" not in found and (folder / "runs" / "run" / "metrics.jsonl").exists():
            (folder / "brake").touch()  # the dashboard may take longer to answer than the run to end
            ask(found, token)
            if "jobs" in found:
                (folder / "brake").unlink()
        time.sleep(0.5)
    run.kill()
    seen.write_text(json.dumps({**found, "code": run.wait()}))


def look(driver: int, found: dict[str, Any]) -> None:
    """Who listens where, with which arguments each process was started, and in which environment."""
    with suppress(psutil.Error):
        processes = [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]
        for process in processes:
            with suppress(psutil.Error):
                command = " ".join(process.cmdline())
                name = command.split(" ")[0].rpartition("/")[2] if command.startswith("ray::") else command
                if command and command not in found["commands"]:
                    found["commands"].append(command)
                found["environments"][name] = process.environ()
                for connection in process.net_connections("inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        found["listeners"].setdefault(name, [])
                        place = [connection.laddr.ip, connection.laddr.port]
                        if place not in found["listeners"][name]:
                            found["listeners"][name].append(place)


def ask(found: dict[str, Any], token: str) -> None:
    """The dashboard: a job without a token, then the jobs with it."""
    ports = [place[1] for name, places in found["listeners"].items() if "dashboard.py" in name for place in places]
    for port in ports:
        url = f"http://127.0.0.1:{port}/api/jobs/"
        with suppress(OSError, ValueError, http.client.HTTPException):
            code = answer(urllib.request.Request(url, data=b'{"entrypoint": "touch marker"}', method="POST"))[0]
            listing = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
            text = answer(listing)[1]
            json.loads(text)  # its process has a server of metrics beside it, which knows no jobs
            found["posted"], found["jobs"] = code, text


def answer(request: urllib.request.Request) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
