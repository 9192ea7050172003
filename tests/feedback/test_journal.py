"""The journal keeps every judgement, whatever becomes of the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from feedback.journal import Journal, Judgement, read_judgements

ROOT = Path(__file__).resolve().parents[2]


def judgement(number: int, choice: str = "left", labeller: str = "ann", left: int = 0) -> Judgement:
    return Judgement(id=str(number), pair=f"p{number}", labeller=labeller, choice=choice, left=left, seconds=1.5)  # type: ignore[arg-type]


def test_judgements_are_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    journal = Journal(path)
    for number in range(3):
        journal.add(judgement(number))
    journal.add(judgement(1))  # sent twice
    assert read_judgements(path) == journal.judgements == [judgement(number) for number in range(3)]
    journal.close()
    assert Journal(path).judgements == [judgement(number) for number in range(3)]


def test_taking_back_leaves_the_line_and_removes_the_judgement(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    journal = Journal(path)
    journal.add(judgement(1))
    journal.add(judgement(2))
    journal.take_back("1")
    assert journal.judgements == Journal(path).judgements == [judgement(2)]
    assert len(path.read_text().splitlines()) == 3


def test_a_torn_line_is_passed_over_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    Journal(path).add(judgement(1))
    with path.open("a") as file:
        file.write('{"id": "2", "pair": "p')
    journal = Journal(path)
    journal.add(judgement(3))
    assert journal.judgements == read_judgements(path) == [judgement(1), judgement(3)]


def test_what_was_told_to_be_kept_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    script = (
        "import sys\nfrom pathlib import Path\nfrom feedback.journal import Journal, Judgement\n"
        f"journal = Journal(Path({str(path)!r}))\n"
        "number = 0\nwhile True:\n"
        "    journal.add(Judgement(id=str(number), pair='p', labeller='a', choice='tie', left=0, seconds=1))\n"
        "    print(number, flush=True)\n    number += 1\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(20)]
    os.kill(process.pid, signal.SIGKILL)
    told += [int(line) for line in process.stdout]
    process.wait()
    kept = [int(one.id) for one in read_judgements(path)]
    assert kept[: len(told)] == told


def test_the_preferred_response_does_not_depend_on_its_side() -> None:
    assert [judgement(1, choice, left=left).preferred for choice in ("left", "right") for left in (0, 1)] == [
        0,
        1,
        1,
        0,
    ]
    assert [judgement(1, choice).preferred for choice in ("tie", "both_bad")] == [None, None]
