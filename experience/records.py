"""The records that flow through a run: Prompt -> Trajectory -> Scored -> Batch.

Token-level data stays in a `TokenBlock`, which travels once and is then named by a handle; the driver
works with the trajectories' floats alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rewards.contract import Score

FinishReason = Literal["stop", "length", "abort"]

# Names a TokenBlock wherever it lives: a Ray object reference, or the block itself.
BlockHandle: TypeAlias = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One row of the data set at one place of the endless stream.

    `ordinal` counts prompts from the start of the run, over epochs: it is the prompt's identity.
    """

    ordinal: int
    epoch: int
    row: int
    tokens: NDArray[np.int32]
    text: str
    messages: Sequence[Mapping[str, str]] = ()
    answer: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one group is drawn. `seed` makes each sample a function of (weights, prompt, seed, index).

    `beam_width`: 0 to draw samples one by one; else the group is the best that a beam of so many finds, and neither
    seed nor temperature has a part in it.
    """

    num_samples: int
    max_response_tokens: int
    temperature: float  # 0: greedy
    seed: int
    beam_width: int = 0

    @property
    def num_sequences(self) -> int:
        """Sequences that an engine runs at once for the group."""
        return self.beam_width or self.num_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Responses that are compared with each other: C comparisons over the N sequences of a block.

    `edges`: [C + 1]; comparison i holds the sequences edges[i]:edges[i + 1], all of one prompt.
    `ratings`: [N], higher is better.
    """

    edges: NDArray[np.int64]
    ratings: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBlock:
    """Token-level columns of many trajectories, one after the other.

    `offsets`: [N + 1]; trajectory i holds tokens offsets[i]:offsets[i + 1], prompt included.
    `response_mask` is True on tokens that the policy sampled (or that a supervised loss counts);
    `rollout_logprobs` and `versions` are 0 and -1 elsewhere. `ranking` says which of them are compared.
    """

    offsets: NDArray[np.int64]
    tokens: NDArray[np.int32]
    response_mask: NDArray[np.bool_]
    rollout_logprobs: NDArray[np.float32]
    versions: NDArray[np.int32]
    ranking: Ranking | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def span(self, row: int) -> slice:
        """Where trajectory `row` stands in the columns."""
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One sampled response: what the driver knows of it, and where its tokens are."""

    prompt: Prompt
    sample_index: int
    block: BlockHandle
    row: int
    num_prompt_tokens: int
    num_response_tokens: int
    text: str
    finish_reason: FinishReason
    min_version: int
    max_version: int
    mean_logprob: float
    worker: str

    @property
    def id(self) -> str:
        """Unique in a run: the prompt's ordinal and the sample's index."""
        return f"{self.prompt.ordinal}.{self.sample_index}"

    @property
    def num_tokens(self) -> int:
        """Prompt and response together."""
        return self.num_prompt_tokens + self.num_response_tokens

    @property
    def is_sound(self) -> bool:
        """Whether its log-probs are numbers; an engine with broken weights or kernels gives others."""
        return isfinite(self.mean_logprob)

    @property
    def is_truncated(self) -> bool:
        """Cut by the length limit rather than ended by the policy."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A trajectory with its verdict; the weighted reward is None where it could not be scored."""

    trajectory: Trajectory
    score: Score

    @property
    def reward(self) -> float | None:
        """The weighted sum of all rewards."""
        return self.score.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All samples of one prompt, scored together since baselines compare them.

    `greedy`: the likeliest response, sampled where its reward is the baseline; it is not trained on.
    """

    prompt: Prompt
    samples: tuple[Scored, ...]
    greedy: Scored | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One sequence of a batch: its place in the batch's blocks, and what was decided about it as a whole.

    Responses that are compared with each other make one item: `num_rows` sequences from `row` on, which no
    plan parts; the counts of tokens are then sums over them.
    `num_loss_tokens`: tokens that the loss counts (the True ones of response_mask); 0 can't be planned.
    `advantage`: that of each of its tokens. `reward`: its last token's, where the ranks make token
    advantages of it.
    """

    block: int
    row: int
    num_tokens: int
    num_rows: int = 1
    num_loss_tokens: int = 0
    advantage: float = 1.0
    reward: float = 0.0


MicroBatch: TypeAlias = tuple[Item, ...]  # one forward and backward pass


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniBatch:
    """One optimiser step: for each rank, the same number of micro-batches (some may be empty).

    The totals are those of all ranks; losses divide by them, so a cut never changes a result. The last `num_still`
    micro-batches of each rank hold sequences that no gradient would come of: they are measured, not learned from.
    """

    ranks: tuple[tuple[MicroBatch, ...], ...]
    num_items: int
    num_sequences: int
    num_loss_tokens: int
    num_still: int = 0

    def of_rank(self, rank: int) -> "MiniBatch":
        """The same optimiser step as one rank sees it: its own micro-batches, the totals of all."""
        return replace(self, ranks=(self.ranks[rank],))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one training step learns from: `epochs` times one update on each mini-batch.

    `mixed`: pre-training sequences that go into each update beside its mini-batch, their loss weighted by
    `mixed_coef`; empty, or one for each update. `kl_coef`: weight of the KL penalty in this step; None: the
    algorithm's. `trains_policy`: False while only the critic is trained.
    """

    blocks: tuple[BlockHandle, ...]
    mini_batches: tuple[MiniBatch, ...]
    epochs: int = 1
    mixed: tuple[MiniBatch, ...] = ()
    mixed_coef: float = 0.0
    kl_coef: float | None = None
    trains_policy: bool = True

    @property
    def updates(self) -> tuple[MiniBatch, ...]:
        """The mini-batch of each optimiser step, in order."""
        return self.mini_batches * self.epochs

    def of_rank(self, rank: int) -> "Batch":
        """The same step as one rank sees it; it gets the blocks by another way."""
        return replace(
            self,
            blocks=(),
            mini_batches=tuple(mini_batch.of_rank(rank) for mini_batch in self.mini_batches),
            mixed=tuple(mini_batch.of_rank(rank) for mini_batch in self.mixed),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A published version of the policy. `handle` is what a rollout worker needs to load it."""

    version: int
    checksum: str
    handle: Any
