"""The thread that owns a sampling engine: it alone touches it, step after step."""

import importlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol, TypeVar

from actors.garbage import all_stays
from actors.messages import ChannelSpec, EngineFailed, EngineStats, RolloutSpec, SequenceRequest, StartFacts
from experience.episode import Completion
from experience.records import Weights

if TYPE_CHECKING:
    from actors.weights import Bytes

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 2.0  # at an engine without work

Finished = list[tuple[str, Completion]]
Result = TypeVar("Result")


class SamplingEngine(Protocol):
    """What samples tokens: vLLM (actors/engine.py). Made of the worker's spec, without weights."""

    version: int | None  # of the weights; None before the first load
    num_tokens: int  # sampled since the start
    stats: EngineStats  # after the last step

    @property
    def ties_embeddings(self) -> bool:
        """Whether the output head is the input embedding, and has no tensor of its own."""
        ...

    @property
    def num_running(self) -> int:
        """Sequences that are not finished."""
        ...

    def add(self, request: SequenceRequest) -> None:
        """Take a sequence in; it is sampled from the next step on."""
        ...

    def abort(self, request_ids: Sequence[str]) -> None:
        """Drop these sequences, where they are not finished already."""
        ...

    def step(self) -> Finished:
        """Sample one more token of every running sequence; the finished ones, by request id."""
        ...

    def load(self, weights: Weights, contents: "Sequence[Sequence[Bytes]] | None") -> None:
        """Replace the weights, between two steps. Running sequences go on under the new version.

        An engine that sleeps wakes. `contents`: the bytes of every bucket, proven; None: they come through the channel.
        """
        ...

    def meet(self, spec: ChannelSpec, place: int) -> None:
        """Meet the other ends of a channel, from `place` on with as many as it has devices."""
        ...

    def check(self) -> None:
        """RuntimeError where a process that the engine needs is lost."""
        ...

    @property
    def can_sleep(self) -> bool:
        """Whether it can give its device's memory to others and take it again."""
        ...

    def sleep(self) -> None:
        """Drop weights and cache, until the next `load`: no version is proven meanwhile. Nothing may be running."""
        ...

    def warm_up(self) -> float:
        """Seconds that the first, slow pass took. Leaves no trace."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


class EngineThread:
    """Starts an engine and steps it for as long as it has work.

    `on_finished` and `on_failure` are called in this thread. After a failure nothing is sampled any more:
    a vLLM engine that raised once may spin for ever or go on with half a model.
    """

    def __init__(
        self,
        spec: RolloutSpec,
        on_finished: Callable[[Finished], object],
        on_failure: Callable[[EngineFailed], object],
    ) -> None:
        self.started: Future[StartFacts] = Future()
        self.num_tokens = self.num_steps = 0
        self.busy_seconds = 0.0
        self.stats = EngineStats()
        self._spec = spec
        self._on_finished = on_finished
        self._on_failure = on_failure
        self._commands: queue.SimpleQueue[Callable[[SamplingEngine], None]] = queue.SimpleQueue()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def add(self, requests: Sequence[SequenceRequest]) -> None:
        """Sample these sequences, from the next step on."""
        self.call(lambda engine: [engine.add(request) for request in requests])

    def abort(self, request_ids: Sequence[str]) -> None:
        """Sample these sequences no further."""
        self.call(lambda engine: engine.abort(request_ids))

    def call(self, work: Callable[[SamplingEngine], Result]) -> Future[Result]:
        """Do something with the engine between two steps. Whatever it raises ends the engine."""
        future: Future[Result] = Future()

        def command(engine: SamplingEngine) -> None:
            try:
                future.set_result(work(engine))
            except Exception as error:
                future.set_exception(failure(cause(engine, error)))
                raise

        self._commands.put(command)
        return future

    def stop(self) -> None:
        """Close the engine after the step under way, and wait for that."""

        def command(engine: SamplingEngine) -> None:
            self._is_stopping = True

        self._commands.put(command)
        self._thread.join()

    def _run(self) -> None:
        try:
            engine = self._start()
            try:
                while not self._is_stopping:
                    self._obey(engine)
                    if engine.num_running:
                        self._step(engine)
            except Exception:
                engine.check()  # that a process is lost says more than what came of it
                raise
            engine.close()
        except Exception as error:  # vLLM raises what it likes; all of it leaves a broken engine
            logger.exception("the engine failed")
            failed = failure(error)
            if not self.started.done():
                self.started.set_exception(failed)
            self._on_failure(failed)

    def _start(self) -> SamplingEngine:
        begin = time.monotonic()
        module, _, name = self._spec.engine.partition(":")
        with all_stays():
            make: Callable[[RolloutSpec], SamplingEngine] = getattr(importlib.import_module(module), name)
        imported = time.monotonic()
        engine = make(self._spec)
        made = time.monotonic()
        engine.warm_up()
        facts = StartFacts(
            import_seconds=imported - begin,
            engine_seconds=made - imported,
            warm_up_seconds=time.monotonic() - made,
        )
        self.started.set_result(facts)
        return engine

    def _obey(self, engine: SamplingEngine) -> None:
        """Carry out the waiting commands; without other work, wait for one."""
        if not engine.num_running:
            self._next_command(engine)(engine)
        while not self._commands.empty():
            self._commands.get()(engine)

    def _next_command(self, engine: SamplingEngine) -> Callable[[SamplingEngine], None]:
        while True:
            try:
                return self._commands.get(timeout=SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                engine.check()

    def _step(self, engine: SamplingEngine) -> None:
        begin = time.monotonic()
        finished = engine.step()
        self.busy_seconds += time.monotonic() - begin
        self.num_tokens = engine.num_tokens
        self.stats = engine.stats
        self.num_steps += 1
        if finished:
            self._on_finished(finished)


def cause(engine: SamplingEngine, error: Exception) -> Exception:
    """What is behind an error of the engine: that a process is lost says more than what came of it."""
    try:
        engine.check()
    except RuntimeError as loss:
        return loss
    return error


def failure(error: Exception) -> EngineFailed:
    """The error as one that any process can unpickle."""
    return EngineFailed(f"rollout engine: {type(error).__name__}: {error}")
