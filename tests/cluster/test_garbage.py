import gc

import pytest

from cluster.garbage import collected_rarely


def test_collections_are_rare_inside_and_as_before_outside() -> None:
    before, num_frozen = gc.get_threshold(), gc.get_freeze_count()
    with pytest.raises(KeyError), collected_rarely():
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_freeze_count() > num_frozen
        raise KeyError
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
