"""What the rollout workers did, as metrics: all together, and each by its name."""

import time
from collections.abc import Mapping

from actors.leases import Lessee
from actors.messages import Progress
from actors.pace import share


class FleetReport:
    """Remembers where each worker stood when it last told."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._progress: dict[str, Progress] = {}

    def metrics(self, workers: Mapping[str, Lessee], *, num_restarts: int, num_backups: int) -> dict[str, float]:
        """Since the last call. A worker that is not known from then has no shares yet."""
        now = time.monotonic()
        seconds, self._since = max(now - self._since, 1e-9), now
        before, self._progress = self._progress, {name: worker.pace.progress for name, worker in workers.items()}
        shares = {
            name: share(before[name], progress, seconds)
            for name, progress in self._progress.items()
            if name in before and progress.num_steps >= before[name].num_steps  # else it is another process
        }
        together = {
            "rollout/workers": float(len(workers)),
            "rollout/slow_workers": float(sum(worker.pace.slowness > 1 for worker in workers.values())),
            "rollout/restarts": float(num_restarts),
            "rollout/backup_leases": float(num_backups),
        }
        if shares:
            together["rollout/tokens_per_second"] = sum(each.tokens_per_second for each in shares.values())
            together["rollout/idle_fraction"] = sum(each.idle_fraction for each in shares.values()) / len(shares)
        idle = {f"idle/{name}": each.idle_fraction for name, each in shares.items()}
        speed = {f"speed/{name}": each.tokens_per_second for name, each in shares.items()}
        slow = {f"slowness/{name}": worker.pace.slowness for name, worker in workers.items()}
        return {**together, **idle, **speed, **slow}
