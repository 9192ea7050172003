"""What the loop needs of the world: four roles, fulfilled by actors in a run and by fakes in tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from experience.columns import Place
from experience.records import Batch, BlockHandle, Prompt, Sampling, TokenBlock, Trajectory, Weights
from rewards.contract import RewardInput, Score
from trainers.checkpoint import Written


class Prompts(Protocol):
    """An endless stream, in which each ordinal stands for one prompt, always the same."""

    def at(self, ordinal: int, count: int = 1) -> Sequence[Prompt]:
        """The prompts at the places from `ordinal` on."""
        ...


class Rollouts(Protocol):
    """All rollout workers, as one. Waiting prompts are pulled by whichever worker has room."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
        """One group: `sampling.num_samples` trajectories of `prompt`, in sample order."""
        ...

    async def load(self, weights: Weights) -> None:
        """Give every worker these weights; returns when each has proven that it holds them."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """What the workers did since the last call, by name."""
        ...

    async def block(self, handle: BlockHandle) -> TokenBlock:
        """The tokens behind a handle (for storing samples; the loop itself never reads them)."""
        ...


class Rewards(Protocol):
    """Everything that scores text."""

    async def score(self, items: Sequence[RewardInput]) -> Sequence[Score]:
        """One verdict for each item, in order: the weighted sum as value, each reward in `parts`."""
        ...


class Learner(Protocol):
    """The group of ranks that holds the trained weights."""

    @property
    def scores_first(self) -> bool:
        """Whether a reference, a critic, or the policy itself, is asked about a batch before the first update on it."""
        ...

    async def score(self, batch: Batch) -> None:
        """Have them score these sequences, as they are now, for the next `update`.

        That may cut them in another way, together with others; it has the same numbers for their blocks.
        """
        ...

    async def update(self, batch: Batch) -> Mapping[str, float]:
        """One optimiser step a mini-batch; a batch without any changes nothing. Returns metrics by name."""
        ...

    async def publish(self, version: int) -> Weights:
        """The current weights, as rollout workers load them."""
        ...

    async def divergences(self, batch: Batch) -> Mapping[Place, float]:
        """An estimate of KL(policy || reference) in nats for each sequence of `batch`, by its place.

        Of the log-probs that the rollout workers sampled it with; only where a reference is held.
        """
        ...

    async def refresh_reference(self) -> None:
        """Make the policy as it is now the reference."""
        ...

    async def save(self, draft: Path) -> Written:
        """Write all models as they are now into a checkpoint's draft. OSError when the disk has no room for them."""
        ...

    async def load(self, folder: Path) -> Mapping[str, Any]:
        """Become what a checkpoint holds of the models; gives the state in it. CheckpointError when it is damaged."""
        ...

    async def export(self, folder: Path) -> None:
        """Write the policy in Hugging Face format."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Who does the work. `gold`: what the guard holds against the rewards, where there is one."""

    prompts: Prompts
    rollouts: Rollouts
    rewards: Rewards
    learner: Learner
    gold: Rewards | None = None
