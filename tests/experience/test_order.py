import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experience.order import EpochOrder


@given(st.integers(1, 20), st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(0, 60), st.booleans())
def test_any_stretch_equals_the_same_places_of_the_whole(size, seed, start, count, shuffle):
    def rows(start, count):
        return EpochOrder(size=size, seed=seed, shuffle=shuffle).rows(start, count)

    whole_rows = rows(0, start + count)[1]
    epochs, here = rows(start, count)
    assert np.array_equal(here, whole_rows[start:])
    assert np.array_equal(epochs, np.arange(start, start + count) // size)
    full = len(whole_rows) // size * size
    assert all(sorted(epoch) == list(range(size)) for epoch in whole_rows[:full].reshape(-1, size).tolist())


def test_the_order_is_the_same_on_every_machine_and_version():
    _, rows = EpochOrder(size=8, seed=1, shuffle=True).rows(0, 16)
    assert rows.tolist() == [2, 4, 7, 5, 0, 6, 3, 1, 5, 6, 3, 0, 7, 2, 1, 4]
