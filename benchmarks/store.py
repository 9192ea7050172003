"""How fast a step's trajectories are written and read, against plain pyarrow with the same columns.

    python -m benchmarks.store [FOLDER] [--groups 512] [--rounds 7] [--json FILE]

FOLDER: on the disk to be measured. Ours and plain pyarrow take turns. Plain: the finished table, written and read with
the same compression and checksums; ours begins with the loop's records and ends with them.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experience.records import Group, Prompt, Scored, TokenBlock, Trajectory
from experience.store import read_trajectories, write_trajectories
from experience.stored_groups import read_groups
from rewards.contract import Score

GROUP_SIZE = 8
GROUPS_PER_BLOCK = 8  # that come back from a worker together
PROMPT_TOKENS = 100
MEAN_RESPONSE_TOKENS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One way to write or read a step. `num_bytes`: of its columns in memory."""

    what: str
    num_trajectories: int
    num_bytes: int
    seconds: list[float]

    @property
    def median(self) -> float:
        """Seconds for the whole step."""
        return median(self.seconds)


def made_step(num_groups: int, *, seed: int = 0) -> tuple[list[Group], list[TokenBlock]]:
    """Groups of log-normal lengths with random tokens and log-probs, and the block of each sample."""
    random = np.random.default_rng(seed)
    groups: list[Group] = []
    blocks: list[TokenBlock] = []
    for start in range(0, num_groups, GROUPS_PER_BLOCK):
        ordinals = range(start, min(start + GROUPS_PER_BLOCK, num_groups))
        lengths = random.lognormal(np.log(MEAN_RESPONSE_TOKENS) - 0.32, 0.8, len(ordinals) * GROUP_SIZE)
        block = _block(random, np.clip(lengths, 8, 4 * MEAN_RESPONSE_TOKENS).astype(np.int64))
        groups += [_group(ordinal, block, place * GROUP_SIZE) for place, ordinal in enumerate(ordinals)]
        blocks += [block] * len(lengths)
    return groups, blocks


def _block(random: np.random.Generator, lengths: np.ndarray) -> TokenBlock:
    sizes = lengths + PROMPT_TOKENS
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    total = int(offsets[-1])
    within = np.arange(total) - np.repeat(offsets[:-1], sizes)
    mask = within >= PROMPT_TOKENS
    return TokenBlock(
        offsets=offsets,
        tokens=random.integers(0, 32_000, total).astype(np.int32),
        response_mask=mask,
        rollout_logprobs=np.where(mask, -random.exponential(0.5, total), 0.0).astype(np.float32),
        versions=np.where(mask, 3, -1).astype(np.int32),
    )


def _group(ordinal: int, block: TokenBlock, first_row: int) -> Group:
    prompt = Prompt(
        ordinal=ordinal, epoch=0, row=ordinal, tokens=np.zeros(0, np.int32), text="what is " * 40, answer="42"
    )
    samples = []
    for index in range(GROUP_SIZE):
        row = first_row + index
        num_tokens = len(block.tokens[block.span(row)])
        trajectory = Trajectory(
            prompt=prompt,
            sample_index=index,
            block=block,
            row=row,
            num_prompt_tokens=PROMPT_TOKENS,
            num_response_tokens=num_tokens - PROMPT_TOKENS,
            text=f"{ordinal} and {index} make " * ((num_tokens - PROMPT_TOKENS) // 6),
            finish_reason="stop",
            min_version=3,
            max_version=3,
            mean_logprob=-0.5,
            worker="rollout-0",
        )
        samples.append(Scored(trajectory=trajectory, score=Score(value=index % 2, parts={"math": index % 2})))
    return Group(prompt=prompt, samples=tuple(samples))


def measure(folder: Path, num_groups: int, rounds: int) -> list[Measured]:
    """All ways in turn, `rounds` times; files come from the system's cache."""
    groups, blocks = made_step(num_groups)
    advantages, old_logprobs = [0.5] * len(blocks), [_old_logprobs(g) for group in groups for g in group.samples]
    ours, plain = folder / "ours.parquet", folder / "plain.parquet"
    write_trajectories(ours, 1, groups, advantages, blocks, old_logprobs)
    table = read_trajectories(ours).combine_chunks()
    ways: dict[str, Callable[[], object]] = {
        "write, ours": lambda: write_trajectories(ours, 1, groups, advantages, blocks, old_logprobs),
        "write, plain pyarrow": lambda: _write_plain(table, plain),
        "read, ours, as a table": lambda: read_trajectories(ours),
        "read, plain pyarrow": lambda: pq.read_table(plain, memory_map=True, page_checksum_verification=True),
        "read, ours, as groups": lambda: read_groups(ours),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, work in ways.items():
            began = time.perf_counter()
            work()
            found[name].append(time.perf_counter() - began)
    return [
        Measured(what=name, num_trajectories=len(blocks), num_bytes=table.nbytes, seconds=seconds[1:])
        for name, seconds in found.items()
    ]


def _old_logprobs(sample: Scored) -> np.ndarray:
    return np.full(sample.trajectory.num_response_tokens, -0.5, dtype=np.float32)


def _write_plain(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def table_of(found: Sequence[Measured]) -> str:
    """Medians, rates, and how many times as long as plain pyarrow."""
    plain = {each.what.partition(",")[0]: each.median for each in found if each.what.endswith("pyarrow")}
    lines = ["| | s | trajectories/s | MB/s | x plain |", "|---" * 5 + "|"]
    for each in found:
        ratio = each.median / plain[each.what.partition(",")[0]]
        rates = f"{each.num_trajectories / each.median:,.0f} | {each.num_bytes / each.median / 1e6:,.0f}"
        lines.append(f"| {each.what} | {each.median:.3f} | {rates} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(tempfile.gettempdir()))
    parser.add_argument("--groups", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        found = measure(Path(folder), asked.groups, asked.rounds)
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {found[0].num_bytes / 1e6:.0f} MB of columns")
    print(table_of(found))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(each) for each in found], indent=1))


if __name__ == "__main__":
    main()
