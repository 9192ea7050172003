"""Who is handed which pair, and what is taken of them."""

import uuid
from pathlib import Path

import pytest

from feedback.desk import SECONDS_TO_JUDGE, Desk, DeskError
from feedback.journal import Journal
from feedback.pairs import Pair, make_pair


def pairs(count: int) -> list[Pair]:
    return [make_pair(f"prompt {number}", ("yes", "no")) for number in range(count)]


def judge_all(desk: Desk, labeller: str) -> list[str]:
    judged = []
    while assignment := desk.next(labeller):
        desk.take(labeller, str(uuid.uuid4()), assignment.pair.id, "left", 1.0)
        judged.append(assignment.pair.id)
    return judged


def test_each_pair_is_judged_as_often_as_wanted_and_never_twice_by_one(tmp_path: Path) -> None:
    desk = Desk(pairs(10), Journal(tmp_path / "j"), judgements_per_pair=2)
    first, second, third = (judge_all(desk, name) for name in ("ann", "bob", "cy"))
    assert sorted(first) == sorted(second) == sorted(pair.id for pair in pairs(10))
    assert third == []
    assert desk.progress("ann").own == 10
    assert (desk.progress("cy").done, desk.progress("cy").wanted) == (20, 20)


def test_labellers_at_work_at_once_get_different_pairs(tmp_path: Path) -> None:
    desk = Desk(pairs(5), Journal(tmp_path / "j"))
    shown = [desk.next(f"labeller {number}") for number in range(5)]
    assert len({one.pair.id for one in shown if one}) == 5
    assert desk.next("a sixth") is None


def test_a_pair_left_lying_is_handed_to_another(tmp_path: Path) -> None:
    now = 0.0
    desk = Desk(pairs(1), Journal(tmp_path / "j"), clock=lambda: now)
    assert desk.next("ann") is not None
    assert desk.next("bob") is None
    now = SECONDS_TO_JUDGE + 1
    assert desk.next("bob") is not None


def test_loading_the_page_again_shows_the_same_pair_on_the_same_sides(tmp_path: Path) -> None:
    desk = Desk(pairs(50), Journal(tmp_path / "j"))
    assert desk.next("ann") == desk.next("ann")


def test_sides_are_drawn_by_chance() -> None:
    def left_of(pair: Pair) -> int:
        assignment = Desk([pair], Journal(Path("/dev/null"))).next("ann")
        assert assignment is not None
        return assignment.left

    share = sum(left_of(pair) for pair in pairs(400)) / 400
    assert 0.4 < share < 0.6


def test_undo_brings_the_last_pair_back_and_undoing_twice_the_one_before(tmp_path: Path) -> None:
    desk = Desk(pairs(3), Journal(tmp_path / "j"))
    first, second, _ = judge_all(desk, "ann")
    third = desk.undo("ann")
    assert third is not None and third.pair.id not in (first, second)
    back = desk.undo("ann")
    assert back is not None and back.pair.id == second
    assert desk.progress("ann").own == 1
    assert sorted(judge_all(desk, "ann")) == sorted({third.pair.id, second})


def test_there_may_be_nothing_to_undo(tmp_path: Path) -> None:
    assert Desk(pairs(1), Journal(tmp_path / "j")).undo("ann") is None


def test_a_judgement_sent_twice_is_taken_once_and_another_of_the_same_pair_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    desk = Desk(pairs(2), journal)
    pair = pairs(2)[0].id
    for _ in range(2):
        desk.take("ann", "1", pair, "tie", 1.0)
    assert len(journal.judgements) == 1
    with pytest.raises(DeskError, match="judged this pair already"):
        desk.take("ann", "2", pair, "left", 1.0)
    with pytest.raises(DeskError, match="not among those"):
        desk.take("ann", "3", "unknown", "left", 1.0)
