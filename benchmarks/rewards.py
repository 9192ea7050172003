"""How fast the math reward judges, and that hostile answers slow nobody else down.

OMP_NUM_THREADS=1 python -m benchmarks.rewards [--data FOLDER with gsm8k/model_solutions.jsonl] [--json FILE]
"""

import argparse
import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.schema.rewards import RewardPoolConfig, RewardSpec
from rewards.contract import RewardInput
from rewards.pool import RewardPool


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One figure. `detail`: what came beside it."""

    what: str
    value: float
    unit: str
    detail: str = ""

    def __str__(self) -> str:
        detail = f"; {self.detail}" if self.detail else ""
        return f"{self.what}: {self.value:,.{0 if self.value >= 100 else 2}f} {self.unit}{detail}"


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = []
    for each in measure(asked.data):
        print(each, flush=True)
        found.append(each)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(each) for each in found], indent=1))


def measure(folder: Path) -> Iterator[Measured]:
    """All of it, in turn. `folder`: where the model solutions are; without them, those are left out."""
    started = time.perf_counter()
    pool = _pool("boxed")
    yield Measured(what="start of a pool with one process", value=time.perf_counter() - started, unit="s")
    yield from one_core()
    yield short_answers(pool)
    yield hang_then_recover(pool)
    yield asyncio.run(loop_stays_free(pool))
    pool.close()
    path = folder / "gsm8k/model_solutions.jsonl"
    if path.is_file():
        yield from gsm8k(path)


def _pool(marker: str) -> RewardPool:
    pool = RewardPool([RewardSpec(use="math", args={"marker": marker})], RewardPoolConfig(), is_caching=False)
    pool.start()
    return pool


def _item(response: str, answer: str) -> RewardInput:
    return RewardInput(prompt="", response=response, answer=answer)


def short_answers(pool: RewardPool) -> Measured:
    """Batches that texts and exact numbers decide, as in the arithmetic demonstration."""
    times = []
    for batch in range(20):
        answers = range(batch * 512, (batch + 1) * 512)
        items = [_item(f"so it is \\boxed{{{number}}}", str(number + number % 2)) for number in answers]
        started = time.perf_counter()
        pool.score_blocking(items)
        times.append(time.perf_counter() - started)
    times.sort()
    return Measured(
        what="512 short answers, one process",
        value=512 / times[10],
        unit="verdicts/s",
        detail=f"median {1e3 * times[10]:.1f} ms, worst {1e3 * times[-1]:.1f} ms",
    )


def one_core() -> Iterator[Measured]:
    """CPU seconds of the rule itself, without the pool: what a verdict costs on an idle machine."""
    from rewards.math_answer import score_math

    score_math(_item(r"\boxed{\frac{1}{2}}", "0.5"))  # imports and the parser's tables
    exact = [_item(f"so it is \\boxed{{{number}}}", str(number + number % 2)) for number in range(20_000)]
    formulas = [f"\\frac{{{number}}}{{7}}+x" for number in range(200)]
    parsed = [_item(f"so it is \\boxed{{{formula}}}", f"{formula}+1") for formula in formulas]
    for name, items in (("texts and exact numbers", exact), ("formulas, each new", parsed)):
        started = time.process_time()
        for item in items:
            score_math(item)
        rate = len(items) / (time.process_time() - started)
        yield Measured(what=f"one core, {name}", value=rate, unit="verdicts/s of CPU time")


def hang_then_recover(pool: RewardPool) -> Measured:
    """What one answer that hangs costs beyond its own limit of a second."""
    started = time.perf_counter()
    pool.score_blocking([_item(r"\boxed{9^{9^{9^{9}}}}", "42"), _item(r"\boxed{\frac{84}{2}}", "42")])
    seconds = time.perf_counter() - started
    return Measured(what="an answer that hangs, and the next one", value=seconds, unit="s", detail="the limit is 1 s")


async def loop_stays_free(pool: RewardPool) -> Measured:
    """1,000 verdicts, 5 % of them hostile, while the same event loop wakes every 5 ms."""
    items = [_item(f"\\boxed{{{number}}}", str(number)) for number in range(1000)]
    items[::20] = [_item(f"\\boxed{{9^{{9^{{9^{{{number}}}}}}}}}", "42") for number in range(2, 52)]
    started = time.perf_counter()
    task = asyncio.create_task(pool.score(items))
    longest, before = 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.005)
        longest, before = max(longest, time.perf_counter() - before), time.perf_counter()
    statuses = Counter(score.status.value for score in task.result())
    return Measured(
        what="1,000 verdicts, 50 hostile",
        value=time.perf_counter() - started,
        unit="s",
        detail=f"{dict(statuses)}, longest pause of the event loop {1e3 * longest:.0f} ms",
    )


def gsm8k(path: Path) -> Iterator[Measured]:
    """All published solutions in four presentations: agreement with the published verdict, and speed."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for marker, form in {"boxed": "\\boxed{%s}", "hashes": "#### %s", "answer_is": "Answer: %s", "raw": "%s"}.items():
        items = []
        for row in rows:
            answer = re.search(r"A: (.*)\Z", row["solution"], re.DOTALL)
            items.append(_item(f"{row['solution']}\n{form % (answer[1].strip() if answer else '')}", row["answer"]))
        pool = _pool(marker)
        started = time.perf_counter()
        scores = pool.score_blocking(items)
        seconds = time.perf_counter() - started
        pool.close()
        agree = sum((score.value == 1.0) == row["is_correct"] for score, row in zip(scores, rows, strict=True))
        yield Measured(
            what=f"GSM8K, marker {marker}",
            value=len(rows) / seconds,
            unit="verdicts/s",
            detail=f"{agree} of {len(rows)} agree",
        )


if __name__ == "__main__":
    main()
