"""From scored groups to what a step learns from: advantages, and the batch that carries them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from algorithms.advantages import SequenceRewards, next_moving_average, sequence_advantages
from algorithms.algorithm import Algorithm
from algorithms.shaping import can_teach, overlong_penalty
from experience.packing import plan_mini_batches
from experience.records import Batch, BlockHandle, Group, Item, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """One step's groups, the advantage of each sample in their order, and the batch made of them.

    The advantage is None where a sample is not trained on: it was not scored, or had nothing to compare with.
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

    def __init__(self, algorithm: Algorithm, shape: BatchShape) -> None:
        self._algorithm = algorithm
        self._shape = shape
        self._moving_average: float | None = None

    def keeps(self, group: Group) -> bool:
        """Whether a group is trained on; others are dropped and replaced (dynamic sampling)."""
        return not self._algorithm.dynamic_sampling or can_teach([sample.reward for sample in group.samples])

    def credit(self, groups: Sequence[Group]) -> Credit:
        """Advantages over one step's groups, packed for the ranks."""
        advantages = self._advantages(groups)
        return Credit(groups=tuple(groups), advantages=advantages, batch=self._batch(groups, advantages))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"moving_average": self._moving_average}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._moving_average = state["moving_average"]

    def _advantages(self, groups: Sequence[Group]) -> tuple[float | None, ...]:
        samples = [sample for group in groups for sample in group.samples]
        rewards = torch.tensor([_or_nan(sample.reward) for sample in samples], dtype=torch.float64)
        lengths = torch.tensor([sample.trajectory.num_response_tokens for sample in samples])
        rewards += overlong_penalty(lengths, self._shape.max_response_tokens, self._algorithm.overlong_share)
        numbers = [number for number, group in enumerate(groups) for _ in group.samples]
        cut = torch.tensor([sample.trajectory.is_truncated for sample in samples])
        estimated = sequence_advantages(
            self._algorithm,
            SequenceRewards(
                rewards=rewards,
                groups=torch.tensor(numbers),
                moving_average=self._moving_average or 0.0,
                is_truncated=cut,
            ),
        )
        self._moving_average = next_moving_average(self._moving_average, rewards, self._algorithm.baseline_decay)
        # An empty response has no token to learn from.
        is_usable = (lengths > 0) & ~estimated.isnan()
        return tuple(a if u else None for a, u in zip(estimated.tolist(), is_usable.tolist(), strict=True))

    def _batch(self, groups: Sequence[Group], advantages: Sequence[float | None]) -> Batch:
        handles = _Handles()
        remaining = iter(advantages)
        items = [
            [
                _item(sample.trajectory, handles, advantage)
                for sample, advantage in zip(group.samples, remaining, strict=False)
                if advantage is not None
            ]
            for group in groups
        ]
        mini_batches = plan_mini_batches(
            items,
            num_mini_batches=self._shape.mini_batches,
            num_ranks=self._shape.num_ranks,
            tokens_per_micro_batch=self._shape.tokens_per_micro_batch,
        )
        return Batch(blocks=tuple(handles.values), mini_batches=mini_batches * self._shape.epochs)


class _Handles:
    """Numbers the blocks that a batch refers to."""

    def __init__(self) -> None:
        self.values: list[BlockHandle] = []
        self._numbers: dict[int, int] = {}

    def number(self, handle: BlockHandle) -> int:
        """The place of `handle` in `values`."""
        if id(handle) not in self._numbers:
            self._numbers[id(handle)] = len(self.values)
            self.values.append(handle)
        return self._numbers[id(handle)]


def _item(trajectory: Trajectory, handles: _Handles, advantage: float) -> Item:
    return Item(
        block=handles.number(trajectory.block),
        row=trajectory.row,
        num_tokens=trajectory.num_tokens,
        num_loss_tokens=trajectory.num_response_tokens,
        advantage=advantage,
    )


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
