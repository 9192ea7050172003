"""The controller at 512 workers: `python -m benchmarks.simulate`, a million trajectories on a virtual clock."""

import resource
import time

from pydantic import TypeAdapter

from cluster.simulate import Timing, long_tail, simulate
from configs.schema import RlRun, Run

_LONGEST = 4096


def main() -> None:
    """Seconds and memory of one simulation."""
    run: RlRun = TypeAdapter(Run).validate_python(
        {
            "name": "million",
            "stage": "rl",
            "model": {"path": "none"},
            "data": {"arithmetic": {}, "max_prompt_tokens": 512},
            "num_steps": 61,
            "rewards": [{"use": "math"}],
            "algorithm": {"name": "grpo", "kl_coef": 0},
            "trainer": {"num_ranks": 64, "tokens_per_micro_batch": 16384},
            "rollout": {
                "num_workers": 512,
                "prompts_per_step": 2048,
                "group_size": 8,
                "max_staleness": 1,
                "sampling": {"max_response_tokens": _LONGEST},
            },
        }
    )
    timing = Timing(
        source="a constant speed",
        token_seconds=lambda running: 0.02,
        update_seconds=lambda tokens: 4e-6 * tokens,
        sync_seconds=1.0,
        score_seconds=0.0,
        slots=64,
        prompt_tokens=200,
        lengths=long_tail(800, 0.8, _LONGEST),
    )
    started = time.monotonic()
    found = simulate(run, timing)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{found.num_trajectories:,} trajectories, {found.num_steps} steps of {found.step_seconds:.1f} virtual s")
    print(f"{seconds:.0f} s of wall time, {found.cpu_seconds:.1f} CPU s, peak {peak:.2f} GiB")
    print(f"{found.cpu_seconds_per_10_000:.2f} CPU s for 10,000 trajectories")


if __name__ == "__main__":
    main()
