"""The sink that publishes a run in Ray's own metrics, which every node offers to Prometheus."""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

import ray
from ray.util.metrics import Counter, Gauge

from metrics.exposition import Exposed, Sample, exposed_metric

logger = logging.getLogger(__name__)

_OF_RUN = ("run", "ray_job")
_SECONDS_BETWEEN_BEATS = 1.0  # less than the shortest time between two exports of Ray


class RayMetricsSink:
    """Fulfils `metrics.sink.Sink`. Values are given to Ray at each `beat`; a failure is told once and costs no more.

    Ray forgets a gauge that is not set again between two of its exports (10 s apart, unless it is told otherwise), so
    `beat` says everything anew, and what is not said any more, such as a lost worker, ends by itself.
    """

    def __init__(self, run: str, live: Callable[[], Iterable[Sample]]) -> None:
        """`live`: how the run stands now, asked at each beat."""
        # The job tells runs of one name apart.
        self._run = dict(zip(_OF_RUN, (run, ray.get_runtime_context().get_job_id()), strict=True))
        self._live = live
        self._steps: list[Sample] = []
        self._metrics: dict[str, Gauge | Counter] = {}
        self._counted: dict[tuple[str, str], float] = {}
        self._is_broken = False

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take over one step's metrics. Held-out ones stand until they are measured again."""
        held_out = [old for old in self._steps if old.exposed.name.startswith("wutong_eval_")]
        new = [_sample(name, value) for name, value in values.items()]
        names = {sample.exposed.name for sample in new}
        self._steps = [*(old for old in held_out if old.exposed.name not in names), *new]
        self._attempt(lambda: [self._increase(sample, sample.value) for sample in new if sample.exposed.is_counter])

    def close(self) -> None:
        """Say everything once more."""
        self.beat()

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Inside, Ray is told again and again, and once more at the end."""
        task = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            task.cancel()
            self.close()

    async def _keep(self) -> None:
        while True:
            self.beat()
            await asyncio.sleep(_SECONDS_BETWEEN_BEATS)

    def beat(self) -> None:
        """Give Ray the newest values."""
        self._attempt(self._publish)

    def _publish(self) -> None:
        for sample in self._live():
            if sample.exposed.is_counter:
                self._increase(sample, self._news(sample))
            else:
                self._set(sample)
        for sample in self._steps:
            if not sample.exposed.is_counter:
                self._set(sample)

    def _attempt(self, work: Callable[[], object]) -> None:
        if self._is_broken:
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever Ray raises, training goes on
            self._is_broken = True
            logger.warning("Ray's metrics failed and are left out from here on; metrics.jsonl has all: %r", error)

    def _set(self, sample: Sample) -> None:
        if math.isfinite(sample.value):  # Ray drops others
            metric = self._metric(sample.exposed, Gauge)
            assert isinstance(metric, Gauge)
            metric.set(sample.value, {**self._run, **sample.labels})

    def _increase(self, sample: Sample, by: float) -> None:
        if by > 0 and math.isfinite(by):
            metric = self._metric(sample.exposed, Counter)
            assert isinstance(metric, Counter)
            metric.inc(by, {**self._run, **sample.labels})

    def _news(self, sample: Sample) -> float:
        """What a count grew by. One that is smaller than before is that of another process, and all new."""
        key = (sample.exposed.name, str(sorted(sample.labels.items())))
        before, self._counted[key] = self._counted.get(key, 0.0), sample.value
        return sample.value - before if sample.value >= before else sample.value

    def _metric(self, exposed: Exposed, kind: type[Gauge] | type[Counter]) -> Gauge | Counter:
        if exposed.name not in self._metrics:
            keys = (*_OF_RUN, *exposed.labels)
            self._metrics[exposed.name] = kind(exposed.name, description=exposed.meaning, tag_keys=keys)
        return self._metrics[exposed.name]


def _sample(name: str, value: float) -> Sample:
    exposed, labels = exposed_metric(name)
    return Sample(exposed=exposed, value=value, labels=labels)
