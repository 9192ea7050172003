"""From scored groups to what a step learns from: advantages, and the batch that carries them."""

# N samples of a step

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from algorithms.advantages import SequenceRewards, next_moving_average, sequence_advantages
from algorithms.algorithm import Algorithm
from algorithms.kl import AdaptiveKl, kl_controller
from algorithms.shaping import can_teach, overlong_penalty
from experience.blocks import BlockNumbers
from experience.packing import plan_mini_batches
from experience.records import Batch, Group, Item, Scored, Trajectory
from trainers.mixing import Mixer


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """One step's groups, the advantage of each sample in their order, and the batch made of them.

    The advantage is None where a sample is not trained on: it was not scored, or had nothing to compare with.
    Where tokens have advantages of their own, which the ranks find, it is what they are made of: the reward.
    """

    groups: tuple[Group, ...]
    advantages: tuple[float | None, ...]
    batch: Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """How a step is cut for the learner."""

    mini_batches: int
    epochs: int
    num_ranks: int
    tokens_per_micro_batch: int
    max_response_tokens: int


class CreditAssigner:
    """Turns rewards into advantages as the algorithm's row says, and packs them for the ranks."""

    def __init__(self, algorithm: Algorithm, shape: BatchShape, mixer: Mixer | None = None) -> None:
        self._algorithm = algorithm
        self.shape = shape
        self._mixer = mixer
        self._moving_average: float | None = None
        self._kl = kl_controller(algorithm)
        self._target_factor = 1.0  # of the recipe's kl_target, where it was tightened

    @property
    def has_kl(self) -> bool:
        """Whether the objective has a KL term, whose weight `tighten_kl` can change."""
        return self._algorithm.needs_reference

    def keeps(self, group: Group) -> bool:
        """Whether a group is trained on; others are dropped and replaced (dynamic sampling)."""
        return not self._algorithm.dynamic_sampling or can_teach([sample.reward for sample in group.samples])

    def credit(self, groups: Sequence[Group], step: int, blocks: BlockNumbers | None = None) -> Credit:
        """Advantages over the groups of step `step` (0 is the first), packed for the ranks.

        `blocks`: the names that other batches of the step have for its blocks; None: there are no others.
        """
        samples = [sample for group in groups for sample in group.samples]
        rewards = self._rewards(samples)
        if self._algorithm.has_token_rewards:
            found = self._token_rewards(samples, rewards)
        else:
            found = self._advantages(groups, samples, rewards)
        self._moving_average = next_moving_average(self._moving_average, rewards, self._algorithm.baseline_decay)
        # An empty response has no token to learn from.
        is_usable = [sample.trajectory.num_response_tokens > 0 for sample in samples] & ~found.isnan().numpy()
        advantages = tuple(a if u else None for a, u in zip(found.tolist(), is_usable.tolist(), strict=True))
        batch = replace(
            self._batch(groups, advantages, blocks or BlockNumbers()),
            epochs=self.shape.epochs,
            kl_coef=self._kl.coef,
            trains_policy=step >= self._algorithm.critic_warmup_steps,
        )
        if self._mixer is not None and batch.trains_policy:
            batch = self._mixer.mix(batch, step * self.shape.mini_batches * self.shape.epochs)
        return Credit(groups=tuple(groups), advantages=advantages, batch=batch)

    def observe(self, credit: Credit, metrics: Mapping[str, float]) -> None:
        """Steer the KL coefficient by what the ranks measured while they learned from `credit`."""
        divergence = metrics.get("policy/kl_ref")
        if divergence is not None:
            num_sequences = sum(advantage is not None for advantage in credit.advantages)
            self._kl = self._kl.after(divergence, num_sequences)

    def tighten_kl(self, factor: float) -> str:
        """Let the policy less far from the reference from here on; says how."""
        before, self._kl = self._kl, self._kl.tightened(factor)
        if isinstance(before, AdaptiveKl) and isinstance(self._kl, AdaptiveKl):
            self._target_factor *= factor
            return f"algorithm.kl_target goes from {before.target:.4g} to {self._kl.target:.4g}"
        return f"algorithm.kl_coef goes from {before.coef:.4g} to {self._kl.coef:.4g}"

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        tightened = {"kl_target_factor": self._target_factor} if self._target_factor != 1 else {}
        return {"moving_average": self._moving_average, "kl_coef": self._kl.coef, **tightened}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._moving_average = state["moving_average"]
        self._target_factor = state.get("kl_target_factor", 1.0)
        target = self._algorithm.kl_target * self._target_factor
        self._kl = kl_controller(replace(self._algorithm, kl_coef=state["kl_coef"], kl_target=target))

    def _rewards(self, samples: Sequence[Scored]) -> Tensor:
        """[N] with the penalty for length; NaN where a sample has none."""
        rewards = torch.tensor([_or_nan(sample.reward) for sample in samples], dtype=torch.float64)
        lengths = torch.tensor([sample.trajectory.num_response_tokens for sample in samples])
        return rewards + overlong_penalty(lengths, self.shape.max_response_tokens, self._algorithm.overlong_share)

    def _token_rewards(self, samples: Sequence[Scored], rewards: Tensor) -> Tensor:
        """[N], what each sample's last token is rewarded with; NaN where it is left out."""
        if self._algorithm.mask_truncated:
            rewards = torch.where(_is_truncated(samples), torch.nan, rewards)
        return rewards - (self._moving_average or 0.0)

    def _advantages(self, groups: Sequence[Group], samples: Sequence[Scored], rewards: Tensor) -> Tensor:
        """[N], NaN where a sample is left out."""
        numbers = [number for number, group in enumerate(groups) for _ in group.samples]
        greedy = [_or_nan(group.greedy.reward if group.greedy else None) for group in groups for _ in group.samples]
        batch = SequenceRewards(
            rewards=rewards,
            groups=torch.tensor(numbers),
            greedy_rewards=torch.tensor(greedy, dtype=torch.float64),
            moving_average=self._moving_average or 0.0,
            is_truncated=_is_truncated(samples),
        )
        return sequence_advantages(self._algorithm, batch)

    def _batch(self, groups: Sequence[Group], advantages: Sequence[float | None], blocks: BlockNumbers) -> Batch:
        in_reward = self._algorithm.has_token_rewards
        remaining = iter(advantages)
        items = [
            [
                _item(sample.trajectory, blocks, advantage, in_reward=in_reward)
                for sample, advantage in zip(group.samples, remaining, strict=False)
                if advantage is not None
            ]
            for group in groups
        ]
        mini_batches = plan_mini_batches(
            items,
            num_mini_batches=self.shape.mini_batches,
            num_ranks=self.shape.num_ranks,
            tokens_per_micro_batch=self.shape.tokens_per_micro_batch,
            is_still=self._is_still,
        )
        return Batch(blocks=blocks.handles, mini_batches=mini_batches)

    def _is_still(self, item: Item) -> bool:
        """Nothing of it moves the policy: a group of equal rewards teaches nothing."""
        algorithm = self._algorithm
        return item.advantage == 0 and not (algorithm.has_token_rewards or algorithm.learns_from_zero)


def _item(trajectory: Trajectory, blocks: BlockNumbers, worth: float, *, in_reward: bool) -> Item:
    """The sequence with its advantage, or with the reward that its ranks make advantages of."""
    return Item(
        block=blocks.number(trajectory.block),
        row=trajectory.row,
        num_tokens=trajectory.num_tokens,
        num_loss_tokens=trajectory.num_response_tokens,
        advantage=0.0 if in_reward else worth,
        reward=worth if in_reward else 0.0,
    )


def _is_truncated(samples: Sequence[Scored]) -> Tensor:
    return torch.tensor([sample.trajectory.is_truncated for sample in samples])


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
