"""How a token is drawn from its distribution: a function of a seed and a position, without any state.

vLLM gives each seeded request a generator of its own, which costs a call a sequence and a random number a
vocabulary entry, and on CPUs fails when a prompt is taken in over two steps (vLLM 0.30). Here one random
number a sequence, computed for all of them at once, is looked up in the cumulative distribution.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

# B sequences of the batch, V vocabulary

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class SeededSampler(torch.nn.Module):
    """Stands in for vLLM's sampler of temperature-scaled logits.

    `rows`: the seed and the number of tokens so far of every sequence of the batch, in the rows' order.
    `agreed`: of what every process of the engine drew, what all of them take; none where there is one process.
    """

    def __init__(
        self,
        rows: Callable[[], tuple[Sequence[int], NDArray[np.integer]]],
        agreed: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self._rows = rows
        self._agreed = agreed

    def forward(
        self, logits: torch.Tensor, generators: object, top_k: object, top_p: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A token for each row, [B] int64, and the log-probs that it was drawn by, [B, V] float32."""
        assert not generators and top_k is None and top_p is None, "requests ask for none of these"
        seeds, positions = self._rows()
        logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
        draws = torch.from_numpy(uniform(seeds, positions)).to(logits.device)
        tokens = inverse_cdf(logprobs, draws)
        return tokens if self._agreed is None else self._agreed(tokens), logprobs


def inverse_cdf(logprobs: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """[B]: for each row the first token whose cumulative probability exceeds the draw.

    `draws`: [B] float64 in [0, 1). A token of probability 0 is never chosen. Sums run in float64, where
    rounding stays far below the probability of any token that matters.
    """
    cumulative = logprobs.double().exp().cumsum(dim=-1)
    targets = draws[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True)[:, 0]


def uniform(seeds: Sequence[int], positions: NDArray[np.integer]) -> NDArray[np.float64]:
    """[B] in [0, 1): one random number for each pair, the same wherever and whenever it is asked for.

    SplitMix64 (doi:10.1145/2714064.2660195): step number `position` of the stream that the seed starts.
    """
    bits = np.array(seeds, dtype=np.uint64) + positions.astype(np.uint64) * GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
