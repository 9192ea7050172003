"""The command `wutong`, whose rollout workers have the light engine: all but the sampling is the real thing."""

import sys
from dataclasses import replace
from typing import Any

from actors.messages import RolloutSpec
from cli import run
from cli.main import main
from cluster import rl_specs
from tests.actors.light_engine import LIGHT_ENGINE

real = rl_specs.rollout_spec


def light(*arguments: Any, **options: Any) -> RolloutSpec:
    return replace(real(*arguments, **options), engine=LIGHT_ENGINE)


if __name__ == "__main__":
    rl_specs.rollout_spec = light
    run.STAGE_PROCESS = (sys.executable, "-m", "tests.cluster.light_wutong", "stage-process")
    main()
