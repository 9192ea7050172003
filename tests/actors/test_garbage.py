import gc

import pytest

from actors.garbage import all_stays, collected_rarely


def test_collections_are_rare_inside_and_as_before_outside() -> None:
    before = gc.get_threshold()
    gc.unfreeze()
    with pytest.raises(KeyError), collected_rarely():
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_freeze_count() > 0
        raise KeyError
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("was_enabled", [True, False])
def test_nothing_is_searched_while_all_stays(was_enabled: bool) -> None:
    gc.unfreeze()
    searches: list[str] = []
    gc.callbacks.append(lambda phase, _: searches.append(phase))
    try:
        if not was_enabled:
            gc.disable()
        with pytest.raises(KeyError), all_stays():
            made = [[] for _ in range(100_000)]  # Python would search at every 700th
            raise KeyError
        assert gc.isenabled() is was_enabled
    finally:
        gc.callbacks.pop()
        gc.enable()
    assert searches == []
    assert gc.get_freeze_count() >= len(made)
    gc.unfreeze()
