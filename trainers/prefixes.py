"""Beginnings that several sequences of a pack have in common, which a model needs to see once.

Samples of one prompt share it, and often the first tokens of their responses; so do a chosen and a rejected response.
In a causal model a token's hidden state depends on the tokens up to it alone, so equal beginnings have equal states.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# T tokens, U of them distinct: together with all that stands before them in their sequence


def distinct_tokens(tokens: NDArray[np.int32], lengths: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[U] one place of each distinct token, ascending, and [T] which of them each token of the pack is.

    `tokens`: [T], sequences of these lengths end to end.
    """
    ends = np.cumsum(lengths)
    sequences = [tokens[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    # In any order that compares one token after the other, sequences with a common beginning are neighbours.
    order = sorted(range(len(sequences)), key=lambda index: sequences[index].tobytes())
    places_of = np.arange(len(tokens))
    starts = ends - lengths
    for before, after in pairwise(order):
        length = _common(sequences[before], sequences[after])
        places_of[starts[after] :][:length] = places_of[starts[before] :][:length]
    places, ids = np.unique(places_of, return_inverse=True)
    return places, ids


def _common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length
