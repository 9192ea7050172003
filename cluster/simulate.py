"""A run of the real loop on a virtual clock: what workers, staleness and lengths make of a step."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from actors.garbage import collected_rarely
from algorithms.table import resolve
from cluster.plan import speed_model
from cluster.plan_machines import Machines
from cluster.plan_sizes import read_sizes
from cluster.plan_speed import Assumptions
from cluster.rl_specs import batch_shape, schedule
from cluster.simulated import (
    CoinRewards,
    EndlessPrompts,
    Lengths,
    SimulatedLearner,
    SimulatedRollouts,
    TokenSeconds,
    UpdateSeconds,
)
from cluster.virtual_clock import run_virtually
from configs.schema import RlRun
from metrics.meter import Meter
from metrics.waits import watched_by
from trainers.credit import Credit, CreditAssigner
from trainers.loop import Loop
from trainers.observer import Observer
from trainers.roles import Roles


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where a simulation's seconds come from."""

    source: str
    token_seconds: TokenSeconds
    update_seconds: UpdateSeconds
    sync_seconds: float
    score_seconds: float
    slots: int
    prompt_tokens: int
    lengths: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What came of it. Shares are of the virtual time after the first steps, which fill the pipeline."""

    num_steps: int
    num_workers: int
    max_staleness: int
    num_trajectories: int
    step_seconds: float
    step_seconds_p95: float
    trainer_share: float  # of the time, training
    sync_share: float
    bubble_share: float  # of the time, the trainer waits for samples
    worker_share: float  # of the workers' time, with a sequence to decode
    slot_share: float  # of the workers' places for sequences, taken
    tokens_per_second: float
    staleness: Mapping[int, float]  # share of the trajectories
    cpu_seconds: float  # of this simulation: the controller's own work

    @property
    def cpu_seconds_per_10_000(self) -> float:
        """What the controller's loop, buffer, credit and packing cost, with the modelled engines."""
        return self.cpu_seconds / max(1, self.num_trajectories) * 10_000


def planned_timing(run: RlRun, machines: Machines, assumed: Assumptions, lengths: Sequence[int] | None) -> Timing:
    """From the model's sizes and the machines' speed. `lengths`: None for a long tail around the assumed mean."""
    sizes, algorithm = read_sizes(run.model), resolve(run.algorithm)
    if lengths is not None:
        share = float(np.mean(lengths)) / run.rollout.sampling.max_response_tokens
        assumed = replace(assumed, mean_response_share=share)
    model = speed_model(run, algorithm, sizes, machines, assumed)
    per_token = model.training(run.trainer.num_ranks) / model.tokens
    return Timing(
        source="the plan's model of speed",
        token_seconds=_remembered(model.token_seconds),
        update_seconds=lambda num_tokens: num_tokens * per_token,
        sync_seconds=model.syncing,
        score_seconds=0.0,
        slots=model.slots,
        prompt_tokens=model.mean_prompt,
        lengths=lengths or long_tail(model.mean_response, 0.8, run.rollout.sampling.max_response_tokens),
    )


def _remembered(token_seconds: TokenSeconds) -> TokenSeconds:
    """The same, each number computed once."""
    known: dict[int, float] = {}

    def remembered(running: int) -> float:
        if running not in known:
            known[running] = token_seconds(running)
        return known[running]

    return remembered


def long_tail(mean: float, sigma: float, longest: int, *, seed: int = 0) -> list[int]:
    """Log-normal lengths of that mean before those above `longest` are cut; `sigma` is the logarithm's deviation."""
    draws = np.random.default_rng(seed).lognormal(np.log(mean) - sigma**2 / 2, sigma, size=65_536)
    return np.clip(np.rint(draws), 1, longest).astype(int).tolist()


def simulate(run: RlRun, timing: Timing) -> Simulation:
    """The run's steps, with its workers, staleness, batch shape and algorithm."""
    started = time.process_time()
    with collected_rarely(), watched_by(None, math.inf):  # modelled work takes as long as the model says
        watch, took = run_virtually(_simulate(run, timing))
    skip = min(run.rollout.max_staleness + 1, run.num_steps - 1)
    return Simulation(
        num_steps=run.num_steps,
        num_workers=run.rollout.num_workers,
        max_staleness=run.rollout.max_staleness,
        num_trajectories=took,
        cpu_seconds=time.process_time() - started,
        staleness=watch.staleness(skip=skip),
        **watch.shares(skip=skip),
    )


async def _simulate(run: RlRun, timing: Timing) -> tuple["_Watch", int]:
    clock = asyncio.get_running_loop().time
    rollouts = SimulatedRollouts(
        num_workers=run.rollout.num_workers,
        slots=timing.slots,
        token_seconds=timing.token_seconds,
        lengths=Lengths(timing.lengths, seed=run.seed),
        prompt_tokens=timing.prompt_tokens,
    )
    rollouts.sync_seconds = timing.sync_seconds
    learner = SimulatedLearner(timing.update_seconds)
    algorithm = resolve(run.algorithm)
    roles = Roles(
        prompts=EndlessPrompts(), rollouts=rollouts, rewards=CoinRewards(timing.score_seconds), learner=learner
    )
    watch = _Watch(rollouts, learner, slots=timing.slots)
    loop = Loop(
        schedule=schedule(run, algorithm, 0),
        roles=roles,
        assigner=CreditAssigner(algorithm, batch_shape(run)),
        meter=Meter(clock=clock),
    )
    await loop.run(watch)
    return watch, rollouts.num_trajectories


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """Sums since the start, at the end of a step."""

    time: float
    training: float
    syncing: float
    busy: float
    taken: float
    tokens: int


class _Watch(Observer):
    """Notes what each step took."""

    def __init__(self, rollouts: SimulatedRollouts, learner: SimulatedLearner, *, slots: int) -> None:
        self._clock = asyncio.get_running_loop().time
        self._rollouts, self._learner, self._slots = rollouts, learner, slots
        self._moments: list[_Moment] = []
        self._ages: list[Counter[int]] = []
        self._tokens = 0
        self._syncing = 0.0

    async def before_training(self, step: int) -> None:
        """The first weights are loaded."""
        self._note()

    def record(self, step: int, credit: Credit, metrics: Mapping[str, float]) -> None:
        """A step is over."""
        trajectories = [sample.trajectory for group in credit.groups for sample in group.samples]
        self._ages.append(Counter(step - 1 - trajectory.min_version for trajectory in trajectories))
        self._tokens += sum(trajectory.num_tokens for trajectory in trajectories)
        self._syncing += metrics.get("time/sync", 0.0)  # none where it takes no time
        self._note()

    def _note(self) -> None:
        now = self._clock()
        self._rollouts.settle(now)
        self._moments.append(
            _Moment(
                time=now,
                training=self._learner.busy_seconds,
                syncing=self._syncing,
                busy=sum(worker.busy_seconds for worker in self._rollouts.workers),
                taken=sum(worker.slot_seconds for worker in self._rollouts.workers),
                tokens=self._tokens,
            )
        )

    def staleness(self, *, skip: int) -> dict[int, float]:
        """Share of the trajectories by the versions that they lag behind, without the first `skip` steps."""
        ages = sum(self._ages[skip:], Counter())
        return {age: count / ages.total() for age, count in sorted(ages.items())}

    def shares(self, *, skip: int) -> dict[str, float]:
        """Everything that a Simulation says of time, without the first `skip` steps."""
        first, last = self._moments[skip], self._moments[-1]
        seconds = last.time - first.time
        steps = np.diff([moment.time for moment in self._moments[skip:]])
        training, syncing = (last.training - first.training) / seconds, (last.syncing - first.syncing) / seconds
        workers = len(self._rollouts.workers)
        return {
            "step_seconds": float(steps.mean()),
            "step_seconds_p95": float(np.quantile(steps, 0.95)),
            "trainer_share": training,
            "sync_share": syncing,
            "bubble_share": max(0.0, 1 - training - syncing),
            "worker_share": (last.busy - first.busy) / seconds / workers,
            "slot_share": (last.taken - first.taken) / seconds / workers / self._slots,
            "tokens_per_second": (last.tokens - first.tokens) / seconds,
        }


def varied(run: RlRun, num_steps: int, num_workers: int | None, max_staleness: int | None) -> RlRun:
    """The recipe with so many steps, workers and versions; None: as it is."""
    wanted = {"num_workers": num_workers, "max_staleness": max_staleness}
    rollout = run.rollout.model_copy(update={key: value for key, value in wanted.items() if value is not None})
    return run.model_copy(update={"num_steps": num_steps, "rollout": rollout})


def parse_lengths(text: str, longest: int) -> Sequence[int]:
    """`tail:MEAN:SIGMA` or `constant:TOKENS` as a sample of lengths, none above `longest`."""
    kind, *numbers = text.split(":")
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
    if kind == "constant" and len(values) == 1 and 1 <= values[0] <= longest:
        return [int(values[0])]
    if kind == "tail" and len(values) == 2 and 1 <= values[0] <= longest and values[1] >= 0:
        return long_tail(values[0], values[1], longest)
    raise ValueError(
        f"--lengths {text}: want tail:MEAN:SIGMA, such as tail:600:0.8, or constant:TOKENS; of 1 to {longest} tokens"
    )
