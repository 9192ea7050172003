"""The rollout worker: an actor around one sampling engine.

Its event loop runs the episodes and answers the fleet, while the engine's thread samples. Messages are
fat: many prompts come in one call, and all groups that finished at one moment leave in one.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import ray
from numpy.typing import NDArray

from actors import stacks
from actors.engine_thread import EngineThread, Finished, SamplingEngine
from actors.last_lines import keep_last_lines
from actors.messages import (
    ChannelSpec,
    EngineFailed,
    GroupRequest,
    GroupResult,
    Harvest,
    Progress,
    RolloutSpec,
    SampleResult,
    SequenceRequest,
    StartFacts,
    WorkerStatus,
)
from actors.weights import check_complete, expected_shapes, fetch, has_bytes
from experience.beam import NextTokens, beam_search
from experience.episode import Completion, Generate, Transcript, pack, sample_seed, single_turn
from experience.records import TokenBlock, Weights
from experience.tokenizer import load_tokenizer
from trainers.adapter_names import adapter_shapes

Result = TypeVar("Result")


class RolloutWorker:
    """One engine, its episodes, and their finished groups until the fleet collects them."""

    def __init__(self, spec: RolloutSpec, name: str = "rollout") -> None:
        self._spec = spec
        self._version: int | None = None
        self._error: EngineFailed | None = None
        self._completions: dict[str, asyncio.Future[Completion]] = {}
        self._outbox: list[SequenceRequest] = []
        self._groups: dict[int, asyncio.Task[None]] = {}  # by ticket
        self._finished: list[tuple[int, list[Transcript]]] = []
        self._num_finished = 0
        self._has_news = asyncio.Event()
        self._name = name
        stacks.listen(name)

    def __repr__(self) -> str:
        """How Ray calls it in logs and in its dashboard."""
        return self._name

    async def start(self) -> StartFacts:
        """Start the engine; it has no weights yet."""
        shapes = expected_shapes(Path(self._spec.model_path))
        self._expected = shapes if self._spec.adapter is None else adapter_shapes(shapes, self._spec.adapter)
        loop = asyncio.get_running_loop()
        self._log = keep_last_lines("vllm")
        self._engine = EngineThread(
            self._spec,
            on_finished=lambda finished: loop.call_soon_threadsafe(self._resolve, finished),
            on_failure=lambda error: loop.call_soon_threadsafe(self._fail, error),
        )
        facts = replace(await asyncio.wrap_future(self._engine.started), node=ray.util.get_node_ip_address())
        # Not before the engine runs: two threads importing transformers at once is asking for trouble.
        self._tokenizer = load_tokenizer(self._spec.model_path, trust_remote_code=self._spec.trust_remote_code)
        return facts

    async def load(self, weights: Weights) -> str:
        """Take these weights into use, also under running sequences; the checksum of what was loaded.

        ValueError, with the engine as it was, when they are not what was published or do not fit. Weights without bytes
        come through the channel that was joined; where they are other ones, or don't come, that ends the engine.
        """
        contents = await fetch(weights) if has_bytes(weights) else None
        tied = await self._ask(lambda engine: engine.ties_embeddings)
        check_complete(weights, self._expected, may_miss=("lm_head.weight",) if tied else ())
        await self._ask(lambda engine: engine.load(weights, contents))
        self._version = weights.version
        return weights.checksum

    async def meet(self, spec: ChannelSpec, place: int) -> None:
        """Meet the other ends of a channel, between two steps of the engine; `place`: that of its first device."""
        await self._ask(lambda engine: engine.meet(spec, place))

    async def sleep(self) -> Progress:
        """Drop what is sampled, and leave the device's memory to others; the next `load` takes it again.

        Gives what was done up to then. ValueError where the engine can't.
        """
        if not await self._ask(lambda engine: engine.can_sleep):
            raise ValueError("this engine can't sleep: it has no device, or rollout.colocated is not set")
        self._version = None
        dropped = list(self._groups.values())
        for ticket in list(self._groups):
            await self.release(ticket)
        await asyncio.gather(*dropped, return_exceptions=True)
        await self._ask(lambda engine: engine.sleep())
        return self._progress()

    async def _ask(self, work: Callable[[SamplingEngine], Result]) -> Result:
        return await asyncio.wrap_future(self._engine.call(work))

    async def submit(self, requests: Sequence[GroupRequest]) -> None:
        """Begin with these groups. ValueError before the first weights, or for a prompt that is too long."""
        if self._error is not None:
            raise self._error
        if self._version is None:
            raise ValueError("this rollout worker has no proven weights; load some before asking for samples")
        for request in requests:
            check_length(len(request.tokens), request.sampling.max_response_tokens, self._spec.max_model_len)
        for request in requests:
            self._groups[request.ticket] = task = asyncio.create_task(self._sample_group(request))
            task.add_done_callback(lambda task, ticket=request.ticket: self._group_ended(ticket, task))

    async def release(self, ticket: int) -> None:
        """Sample this group no further: another worker was faster."""
        if task := self._groups.get(ticket):
            task.cancel()
            ids = [id_ for id_ in self._completions if id_.startswith(f"{ticket}.")]
            for id_ in ids:
                del self._completions[id_]
            self._outbox = [request for request in self._outbox if request.id not in ids]
            self._engine.abort(ids)

    async def _sample_group(self, request: GroupRequest) -> None:
        if request.sampling.beam_width:
            samples = await self._search(request)
        else:
            episodes = (self._sample(request, index) for index in range(request.sampling.num_samples))
            samples = await asyncio.gather(*episodes)
        # Not in one statement: the list is another one by the time that the samples are there.
        self._finished.append((request.ticket, samples))
        self._has_news.set()

    def _group_ended(self, ticket: int, task: asyncio.Task[None]) -> None:
        del self._groups[ticket]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(EngineFailed(f"rollout episode: {type(error).__name__}: {error}"))

    async def _sample(self, request: GroupRequest, index: int) -> Transcript:
        try:
            return await single_turn(request.tokens, request.sampling, self._generator(request, index))
        finally:
            self._num_finished += 1

    async def _search(self, group: GroupRequest) -> list[Transcript]:
        width, turn = group.sampling.beam_width, 0

        async def expand(sequences: Sequence[NDArray[np.int32]], count: int) -> list[NextTokens]:
            nonlocal turn
            turn += 1
            requests = (
                SequenceRequest(
                    id=f"{group.ticket}.{place}.{turn}",
                    tokens=tokens.tolist(),
                    max_tokens=1,
                    temperature=1.0,
                    seed=0,
                    num_top=count,
                )
                for place, tokens in enumerate(sequences)
            )
            return [next_tokens(each) for each in await asyncio.gather(*map(self._complete, requests))]

        try:
            return await beam_search(group.tokens, group.sampling, self._spec.stop_token_ids, expand)
        finally:
            self._num_finished += width

    def _generator(self, group: GroupRequest, index: int) -> Generate:
        """The handle through which one episode samples."""
        sampling = group.sampling
        turn = 0

        async def generate(tokens: NDArray[np.int32], max_tokens: int) -> Completion:
            nonlocal turn
            request = SequenceRequest(
                id=f"{group.ticket}.{index}.{turn}",
                tokens=tokens.tolist(),
                max_tokens=max_tokens,
                temperature=sampling.temperature,
                seed=sample_seed(sampling.seed, group.ordinal, index, turn),
            )
            turn += 1
            return await self._complete(request)

        return generate

    def _complete(self, request: SequenceRequest) -> asyncio.Future[Completion]:
        """The completion to come. Requests of one turn of the event loop reach the engine together."""
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(request)
        future = self._completions[request.id] = asyncio.get_running_loop().create_future()
        return future

    def _flush(self) -> None:
        requests, self._outbox = self._outbox, []
        self._engine.add(requests)

    def _resolve(self, finished: Finished) -> None:
        for request_id, completion in finished:
            if future := self._completions.pop(request_id, None):
                future.set_result(completion)

    def _fail(self, error: EngineFailed) -> None:
        self._error = error
        for task in self._groups.values():
            task.cancel()
        self._has_news.set()

    @ray.method(num_returns=2)
    async def collect(self) -> tuple[TokenBlock, Harvest]:
        """The block with the tokens of the groups that are finished, at least one, and these. Waits for one.

        The block comes first: where the store has no room for it, all that comes after it is that error, too.
        """
        await self._has_news.wait()
        if self._error is not None:
            raise self._error
        self._has_news.clear()
        finished, self._finished = self._finished, []
        transcripts = [transcript for _, samples in finished for transcript in samples]
        texts = self._decode(transcripts)
        groups, row = [], 0
        for ticket, samples in finished:
            rows = range(row, row + len(samples))
            results = (sample_result(at, transcripts[at], texts[at]) for at in rows)
            groups.append(GroupResult(ticket=ticket, samples=tuple(results)))
            row += len(samples)
        return pack(transcripts), Harvest(groups=tuple(groups), progress=self._progress())

    def _decode(self, transcripts: Sequence[Transcript]) -> list[str]:
        responses = [transcript.tokens[transcript.response_mask].tolist() for transcript in transcripts]
        return self._tokenizer.batch_decode(responses, skip_special_tokens=True)

    async def status(self) -> WorkerStatus:
        """One look at the worker; answers while the engine is at work."""
        return WorkerStatus(
            version=self._version,
            num_unfinished=len(self._completions),
            progress=self._progress(),
            error=None if self._error is None else str(self._error),
            engine=self._engine.stats,
            log=self._log.lines,
        )

    def _progress(self) -> Progress:
        return Progress(
            num_steps=self._engine.num_steps,
            num_tokens=self._engine.num_tokens,
            num_finished=self._num_finished,
            busy_seconds=self._engine.busy_seconds,
        )

    async def stop(self) -> None:
        """Close the engine; unfinished groups are dropped."""
        await asyncio.to_thread(self._engine.stop)


def check_length(num_prompt_tokens: int, max_response_tokens: int, max_model_len: int) -> None:
    """ValueError unless the prompt and its longest response fit the engine."""
    if num_prompt_tokens + max_response_tokens > max_model_len:
        raise ValueError(
            f"a prompt of {num_prompt_tokens} tokens and a response of up to {max_response_tokens} exceed the "
            f"engine's {max_model_len}; lower data.max_prompt_tokens or rollout.sampling.max_response_tokens"
        )


def next_tokens(completion: Completion) -> NextTokens:
    """What an engine says of the place after a sequence, of which it was asked for one token."""
    assert completion.top_tokens is not None and completion.top_logprobs is not None, "asked for with num_top"
    [version] = completion.versions
    return NextTokens(tokens=completion.top_tokens[0], logprobs=completion.top_logprobs[0], version=int(version))


def sample_result(row: int, transcript: Transcript, text: str) -> SampleResult:
    """What the driver gets to know of a transcript that stands in row `row` of its block."""
    sampled = transcript.response_mask
    versions = transcript.versions[sampled]
    num_response_tokens = int(sampled.sum())
    return SampleResult(
        row=row,
        num_prompt_tokens=len(sampled) - num_response_tokens,
        num_response_tokens=num_response_tokens,
        text=text,
        finish_reason=transcript.finish_reason,
        min_version=int(versions.min()),
        max_version=int(versions.max()),
        mean_logprob=float(transcript.rollout_logprobs[sampled].mean()),
    )
