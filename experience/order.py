"""The order of an endless stream: which row stands at which place, as a pure function of the seed."""

import numpy as np
from numpy.typing import NDArray


class EpochOrder:
    """A permutation of `size` rows an epoch; place k belongs to epoch k // size.

    Any place can be asked for at any time, so a resumed run needs nothing but its cursor.
    """

    def __init__(self, *, size: int, seed: int, shuffle: bool) -> None:
        assert size > 0, "an empty stream has no order"
        self.size = size
        self._seed = seed
        self._shuffle = shuffle
        self._cached: tuple[int, NDArray[np.int64]] | None = None

    def rows(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epochs and rows at the places start .. start + count - 1: [count] each."""
        places = np.arange(start, start + count, dtype=np.int64)
        epochs, offsets = np.divmod(places, self.size)
        rows = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._permutation(int(epoch))[offsets[here]]
        return epochs, rows

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._draw(epoch))
        return self._cached[1]

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        if not self._shuffle:
            return np.arange(self.size)
        # Sorting raw bits, since numpy promises the stream of a bit generator but not that of permutation().
        bits = np.random.PCG64(np.random.SeedSequence([self._seed, epoch])).random_raw(self.size)
        return np.argsort(bits, kind="stable")
