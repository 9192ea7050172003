"""The command `wutong`, whose stages do nothing but count: for what is about the driver of stages, not their work.

A stage counts to ten in `count` of its folder, one at a time, while the file `brake` is not in the current folder; then
it makes its outputs. A line of `log` tells of each start. SIGINT or SIGTERM ends it between two counts with code 75.
"""

import os
import signal
import sys
import time
from pathlib import Path

from cli import run
from cli.main import main
from cluster.control import write_json
from cluster.folder import RunFolder
from cluster.signals import SIGNALS
from cluster.stage_process import read_request
from cluster.stage_records import OUTCOME
from configs.handed import outputs_of
from configs.schema import Stage
from metrics.whole_file import whole_file

COUNTS = 10


def do(stage: Stage, *, id_: str, resume: bool) -> int:
    stopped: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: stopped.append(number))
    folder = RunFolder(stage)
    counted = folder.path / "count"
    with folder.opened(resume=resume):
        done = int(counted.read_text()) if counted.exists() else 0
        with Path("log").open("a") as log:
            log.write(f"{stage.name} {os.getpid()} from {done}\n")
        if stage.seed == 13:
            raise ValueError("13 is no good")
        while done < COUNTS:
            if stopped:
                return 75
            time.sleep(0.01)
            if not Path("brake").exists():
                done += 1
                with whole_file(counted) as draft:
                    draft.write_text(str(done))
        for place in outputs_of(stage.model_dump(), folder.path).values():
            if not place.exists():
                place.mkdir(parents=True)
        write_json(folder.path / OUTCOME, {"id": id_, "number": f"counted to {done}"})
    return 0


def stage_process() -> None:
    stage, id_, resume = read_request()
    try:
        sys.exit(do(stage, id_=id_, resume=resume))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    if sys.argv[1] == "stage-process":
        stage_process()
    run.STAGE_PROCESS = (sys.executable, "-m", "tests.cluster.stand_in_wutong", "stage-process")
    main()
