"""The loop of reinforcement learning: sample, score, train, publish, at any staleness.

     prompts ──► sample ──► generate ──► score ──► buffer ──► train ──► publish ──► load
                   ▲                                 │                               │
                   └── begins a prompt while the ────┴───── a new policy version ◄───┘
                       staleness bound has room

Two coroutines run side by side. With `max_staleness: 0` the sampler may begin one step's prompts only, so the two
take turns; a larger bound lets them overlap. Nothing here knows Ray, vLLM or DeepSpeed (see roles.py).
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experience.buffer import Buffer
from experience.records import Group, Prompt, Sampling
from metrics.meter import Meter
from metrics.waits import shown, waited
from rewards.health import are_equal, check_equal_steps, check_failures, check_first_step
from trainers.ahead import Ahead
from trainers.credit import Credit, CreditAssigner
from trainers.groups import GroupMaker, reward_input
from trainers.observer import Observer
from trainers.patience import GivenUp, Patience
from trainers.roles import Roles
from trainers.summary import summarise

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """From which step to which, and the size of each."""

    first_step: int
    num_steps: int
    prompts_per_step: int
    max_staleness: int
    sampling: Sampling
    max_error_rate: float = 0.01
    stop_after_equal_steps: int | None = None
    max_dropped_groups: int = 0  # a step, by dynamic sampling; further groups are kept as they are
    greedy: Sampling | None = None  # of the one response that each group is compared with, if it is
    reference_refresh_steps: int = 0  # the policy becomes the reference every so many; 0: never


class Loop:
    """One run of reinforcement learning."""

    def __init__(self, *, schedule: Schedule, roles: Roles, assigner: CreditAssigner, meter: Meter) -> None:
        self._schedule = schedule
        self._prompts, self._rollouts = roles.prompts, roles.rollouts
        self._learner = roles.learner
        self._groups = GroupMaker(
            roles.rollouts, roles.rewards, meter, sampling=schedule.sampling, greedy=schedule.greedy
        )
        self._assigner = assigner
        self._meter = meter
        self._buffer = Buffer(
            prompts_per_step=schedule.prompts_per_step,
            max_staleness=schedule.max_staleness,
            version=schedule.first_step,
            last_version=schedule.num_steps,
        )
        self._ahead = Ahead(roles.learner, assigner.shape, meter)
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._cursor = 0  # the first prompt that was never begun
        self._to_begin: list[int] = []  # prompts that an earlier run began and did not train on
        self._dropped = 0  # groups, since the last step
        self._equal_steps = 0  # in a row, up to the last step
        self._is_stopping = False
        self.patience = Patience()  # with what is sampled and scored
        self.is_between_steps = True  # else the learner may have moved on from the weights of `step`

    @property
    def step(self) -> int:
        """Training steps done since the start of the first run; also the version of the policy."""
        return self._buffer.version

    def standing(self) -> Mapping[str, int]:
        """How it stands, for whoever looks on."""
        return {"step": self.step, "in_flight": self._buffer.num_in_flight, "finished": self._buffer.num_finished}

    def stop(self) -> None:
        """Finish the step that is being sampled or trained, then end."""
        self._is_stopping = True

    def give_up(self) -> None:
        """End without the step that is being sampled; one that is being trained is finished."""
        self._is_stopping = True
        self.patience.end()

    def state(self) -> Mapping[str, Any]:
        """What a later run needs, as JSON, to go on from here without repeating or skipping a prompt."""
        buffer = self._buffer.state()
        return {
            "cursor": self._cursor,
            "dropped": self._dropped,
            "equal_steps": self._equal_steps,
            **buffer,
            "begun": sorted([*buffer["begun"], *self._to_begin]),
        }

    @property
    def waiting(self) -> Sequence[Group]:
        """Groups that are sampled and scored, and not trained on; `state` names them."""
        return self._buffer.waiting

    def restore(self, state: Mapping[str, Any], waiting: Sequence[Group]) -> None:
        """Go on from what `state` gave, before `run`. `waiting`: its waiting groups; those left out begin again."""
        self._cursor = state["cursor"]
        self._dropped, self._equal_steps = state["dropped"], state["equal_steps"]
        begun_at = dict(state["waiting"])
        taken = self._buffer.restore(waiting, begun_at)
        self._to_begin = sorted([*state["begun"], *(begun_at.keys() - taken)])

    async def run(self, observer: Observer) -> None:
        """Train to the last step."""
        await self.publish(self.step)
        try:
            await self.patience.awaits(observer.before_training(self.step), what="what precedes the first step")
        except GivenUp:
            return
        try:
            with shown("buffer", self._buffer.__str__):
                await self._run(observer)
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _run(self, observer: Observer) -> None:
        async with asyncio.TaskGroup() as tasks:

            def start(work: Coroutine[Any, Any, None]) -> None:
                task = tasks.create_task(work)
                self._side_tasks.add(task)
                task.add_done_callback(self._side_tasks.discard)

            start(self._sample(start))
            start(self._ahead.run(self._buffer, lambda: min(self._to_begin, default=math.inf)))
            await self._train(observer)
            for task in self._side_tasks:
                task.cancel()

    async def _sample(self, start: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """Consumes prompts; produces rollouts; waits for the buffer's room; unblocked by each new version."""
        while self._to_begin:
            await self._admitted(self._to_begin[0])
            ordinal = self._to_begin.pop(0)
            start(self._roll_out(*self._prompts.at(ordinal)))
        while True:
            # Drawn many at a time: tokenising them together costs a tenth of doing it one by one.
            for prompt in self._prompts.at(self._cursor, self._schedule.prompts_per_step):
                await self._admitted(prompt.ordinal)
                self._cursor = prompt.ordinal + 1
                start(self._roll_out(prompt))

    async def _admitted(self, ordinal: int) -> None:
        room = self._buffer.admit(ordinal)
        await waited(room, what="room for a prompt", owner="buffer", seconds=math.inf)  # training makes it

    async def _roll_out(self, prompt: Prompt) -> None:
        """Consumes a prompt; produces a scored group in the buffer; waits for a rollout worker and the verifiers."""
        group = await self._groups.sample(prompt)
        if self._assigner.keeps(group) or self._dropped >= self._schedule.max_dropped_groups:
            self._buffer.add(group)
        else:
            self._dropped += 1
            self._buffer.drop(prompt.ordinal)

    async def _train(self, observer: Observer) -> None:
        """Consumes groups; produces policy versions; waits for the buffer; unblocked by each finished group."""
        while self.step < self._schedule.num_steps and not self._is_stopping:
            self._meter.begin_step()
            try:
                groups = await self._take()
            except GivenUp:
                logger.warning("the samples of step %d are given up; they are sampled again", self.step + 1)
                return
            self._check_scores(groups)
            async with self._ahead.all_scored(groups) as blocks:
                await self._step(self._assigner.credit(groups, self.step, blocks), observer)

    async def _step(self, credit: Credit, observer: Observer) -> None:
        """Learn from one step's samples, and give the new weights to the workers."""
        self.is_between_steps = False
        with self._meter.phase("train"):
            learned = await self._learner.update(credit.batch)
        await observer.after_update(self.step + 1, credit, learned)
        self._assigner.observe(credit, learned)
        await self._refresh_reference(self.step + 1)
        metrics = {
            **summarise(credit.groups, self.step),
            "group/dropped": float(self._dropped),
            **({"policy/kl_coef": credit.batch.kl_coef} if credit.batch.kl_coef else {}),
            **learned,
        }
        self._dropped = 0
        try:
            await self.publish(self.step + 1)
            await observer.after_step(self.step + 1)
        finally:  # it is learned, also where its weights reached no worker: it must not be done again
            self._buffer.advance()
            self.is_between_steps = True
            spent = {**self._rollouts.metrics(), **self._ahead.metrics(), **self._meter.end_step()}
            observer.record(self.step, credit, {**metrics, **spent})

    async def _refresh_reference(self, step: int) -> None:
        """Let the policy of step `step` be the reference from here on, if it is time."""
        every = self._schedule.reference_refresh_steps
        if every and step % every == 0:
            await self._learner.refresh_reference()

    async def _take(self) -> list[Group]:
        """The next step's groups. Time until the last response is sampling's, what follows is scoring's."""
        started = self._meter.now()
        with self._meter.under_way("generate"):
            groups = await self.patience.awaits(self._buffer.take(), what=f"the groups of step {self.step + 1}")
        ended = self._meter.now()
        generated = min(max(self._groups.last_generated, started), ended)
        self._meter.span("generate", started, generated)
        self._meter.span("score", generated, ended)
        return groups

    def _check_scores(self, groups: Sequence[Group]) -> None:
        """RewardError when too many verdicts failed, nobody answers, or too many steps in a row teach nothing."""
        samples = [sample for group in groups for sample in group.samples]
        items, scores = [reward_input(s.trajectory) for s in samples], [s.score for s in samples]
        check_failures(items, scores, self._schedule.max_error_rate)
        if self.step == 0:
            check_first_step(items, scores)
        self._equal_steps = self._equal_steps + 1 if are_equal(scores) else 0
        check_equal_steps(items, scores, self._equal_steps, self._schedule.stop_after_equal_steps)

    async def publish(self, version: int) -> None:
        """Give the learner's weights to every rollout worker, as `version`."""
        with self._meter.phase("sync"):
            loaded = self._rollouts.load(await self._learner.publish(version))
            await waited(loaded, what=f"loading version {version}", owner="rollout workers")
