"""What may be asked of a run by whoever sees its folder, and the program that asks it on the driver's node.

    python -P -m cluster.errand FOLDER status | stop | scale NUMBER

prints one line of JSON. From afar it runs as a small job, pinned to the node that the driver is or was on.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.control import ScaleRequest, StopRequest, ask
from cluster.folder import has_owner
from cluster.status import GOING_ON, read_status

SECONDS_TO_SCALE = 900.0  # an engine may take minutes to start
SECONDS_TO_STOP = 30.0
SECONDS_TO_LET_GO = 60.0


def status(folder: Path) -> dict[str, Any]:
    """See `read_status`."""
    return read_status(folder / "status.json")


def scale(folder: Path, num_workers: int) -> str:
    """Have so many rollout workers from now on; what came of it. ValueError: why not."""
    return _asked(folder, ScaleRequest(rollout=num_workers), SECONDS_TO_SCALE)


def stop(folder: Path) -> str:
    """End after the step under way; what came of it. ValueError: why not."""
    return _asked(folder, StopRequest(), SECONDS_TO_STOP)


def ended(folder: Path) -> dict[str, Any]:
    """The last status of a run that was stopped, once its driver is gone and another may take the folder."""
    while (found := status(folder))["state"] in GOING_ON:
        time.sleep(0.5)
    deadline = time.monotonic() + SECONDS_TO_LET_GO
    while found["state"] != "lost" and has_owner(folder):
        if time.monotonic() > deadline:
            raise ValueError(
                f"{folder}: {found['state']}, but its process {found['pid']} on {found['host']} is still there after "
                f"{SECONDS_TO_LET_GO:g} s"
            )
        time.sleep(0.1)
    return found


def _asked(folder: Path, request: ScaleRequest | StopRequest, seconds: float) -> str:
    found = status(folder)
    if found["state"] not in GOING_ON:
        raise ValueError(f"{folder}: nothing to {request.kind}: the run is {found['state']}")
    answer = ask(folder, request, seconds)
    if not answer.is_done:
        raise ValueError(f"{folder}: refused: {answer.text}")
    return answer.text


def main(arguments: Sequence[str]) -> None:
    """Run one errand."""
    folder, what = Path(arguments[0]), arguments[1]
    try:
        if what == "status":
            reply: dict[str, Any] = {"status": status(folder)}
        else:
            reply = {"text": stop(folder) if what == "stop" else scale(folder, int(arguments[2]))}
    except ValueError as error:
        reply = {"refused": str(error)}
    sys.stdout.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
