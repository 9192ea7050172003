"""The loop over the light roles of tests/trainers/test_loop.py, not yet run."""

from algorithms.table import resolve
from configs.schema import AlgorithmConfig
from metrics.meter import Meter
from tests.trainers.test_loop import SAMPLING, Numbers, Recorder, SampleIndex, Sampler
from trainers.credit import BatchShape, CreditAssigner
from trainers.loop import Loop, Schedule
from trainers.roles import Learner, Rewards, Roles, Rollouts


def make_loop(
    *, steps: int, rollouts: Rollouts | None = None, rewards: Rewards | None = None, learner: Learner | None = None
) -> Loop:
    """Two prompts a step, on-policy."""
    shape = BatchShape(mini_batches=1, epochs=1, num_ranks=1, tokens_per_micro_batch=64, max_response_tokens=4)
    schedule = Schedule(first_step=0, num_steps=steps, prompts_per_step=2, max_staleness=0, sampling=SAMPLING)
    roles = Roles(
        prompts=Numbers(),
        rollouts=rollouts or Sampler([]),
        rewards=rewards or SampleIndex(),
        learner=learner or Recorder([]),
    )
    assigner = CreditAssigner(resolve(AlgorithmConfig(name="dr_grpo")), shape)
    return Loop(schedule=schedule, roles=roles, assigner=assigner, meter=Meter())
