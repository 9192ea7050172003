"""What the outside may see of a run, and ask of it, while it goes on."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from actors.fleet import RolloutFleet
from cluster.control import Desk, Handler, Message, ScaleRequest, StopRequest
from cluster.folder import RunFolder
from cluster.live import Live
from cluster.outcome import Outcome
from cluster.ray_metrics import RayMetricsSink
from cluster.scaling import Autoscaler, Scaler
from cluster.status import StatusFile, workers
from cluster.stopping import Stop
from configs.schema import BaseRun, RlRun
from configs.schema.rollout import AutoscaleConfig
from metrics.exposition import Sample
from metrics.meter import Meter
from rewards.pool import RewardPool


class Steering:
    """One run's status file and autoscaler. What trains tells it how it stands."""

    def __init__(
        self,
        stop: Stop,
        status: StatusFile,
        fleet: RolloutFleet | None,
        autoscaler: Autoscaler | None,
        live: Live,
    ) -> None:
        self.stop = stop
        self.published: RayMetricsSink | None = None
        self._status, self._fleet, self._autoscaler = status, fleet, autoscaler
        self._live = live
        self._standing: Callable[[], Mapping[str, Any]] = dict
        status.snapshot = self._snapshot

    def follow(self, standing: Callable[[], Mapping[str, Any]], meter: Meter) -> None:
        """Training goes on, and `standing` says how it stands: step, groups in flight ..."""
        self._status.state = "running"
        self._standing = standing
        self._live.follow(meter)

    def samples(self) -> Iterable[Sample]:
        """How it stands, for Prometheus."""
        return self._live.samples(self._standing())

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """A step is over: see metrics.sink.Sink."""
        if self.published is not None:
            self.published.write(step, values)
        if self._autoscaler is not None and step:
            self._autoscaler.after_step(values)

    def close(self) -> None:
        """See metrics.sink.Sink."""

    def end(self, outcome: Outcome) -> Outcome:
        """It is over, in order."""
        self._status.state = "finished" if outcome.is_finished else "stopped"
        self._standing = lambda: {"step": outcome.step}
        self._fleet = None
        return outcome

    def _snapshot(self) -> Mapping[str, Any]:
        if self._fleet is None:
            return self._standing()
        fleet = {
            "workers": workers(self._fleet),
            "restarts": self._fleet.num_restarts,
            "waiting": self._fleet.leases.num_waiting,
        }
        return {**self._standing(), **fleet}


def on_request(stop: Stop) -> Handler:
    """Stops as a signal does."""

    async def handle(request: StopRequest) -> str:
        stop.request("wutong stop")
        return "stopping after the step under way"

    return handle


async def refuse_scaling(request: ScaleRequest) -> str:
    """ValueError: engines share the GPUs of the ranks."""
    raise ValueError(
        f"--rollout {request.rollout}: refused with rollout.colocated=true, where each rank's GPU has one engine, no "
        "more and no fewer"
    )


@contextlib.asynccontextmanager
async def steered(
    run: BaseRun,
    folder: RunFolder,
    stop: Stop,
    fleet: RolloutFleet | None = None,
    autoscale: AutoscaleConfig | None = None,
    rewards: RewardPool | None = None,
) -> AsyncIterator[Steering]:
    """Inside, `status.json` and Ray's metrics are kept, and requests in the run's folder are carried out."""
    status = StatusFile(folder.status, run=run.name, num_steps=run.num_steps)
    handlers: dict[type[Message], Handler] = {StopRequest: on_request(stop)}
    autoscaler = None
    if fleet is not None:
        scaler = Scaler(fleet)
        is_fixed = isinstance(run, RlRun) and run.rollout.colocated
        handlers[ScaleRequest] = refuse_scaling if is_fixed else scaler.requested
        autoscaler = None if autoscale is None else Autoscaler(autoscale, scaler, fleet)
    steering = Steering(stop, status, fleet, autoscaler, Live(run.num_steps, fleet, rewards))
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(status.kept())
        if run.logging.prometheus:
            steering.published = RayMetricsSink(run.name, steering.samples)
            await stack.enter_async_context(steering.published.kept())
        await stack.enter_async_context(Desk(folder.path, handlers).serving())
        try:
            yield steering
        finally:
            if autoscaler is not None:
                autoscaler.close()
