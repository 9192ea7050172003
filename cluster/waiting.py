"""Groups that are sampled and scored, and wait to be trained on when a checkpoint is made: kept in it, with tokens."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from experience.records import BlockHandle, Group, TokenBlock
from experience.store import write_trajectories
from experience.stored_groups import read_groups
from metrics.waits import waited
from trainers.roles import Prompts, Rollouts

FILE = Path("buffer", "groups.parquet")


async def write_waiting(draft: Path, step: int, groups: Sequence[Group], rollouts: Rollouts) -> None:
    """Write the groups in their order; nothing where there are none. `step`: steps done by then."""
    if not groups:
        return
    blocks = await blocks_of(groups, rollouts)
    (draft / FILE).parent.mkdir()
    written = asyncio.to_thread(write_trajectories, draft / FILE, step, groups, [None] * len(blocks), blocks)
    await waited(written, what="the groups of a checkpoint", owner="disk")


def read_waiting(folder: Path, prompts: Prompts) -> Sequence[Group]:
    """The groups that a checkpoint kept, in their order."""
    path = folder / FILE
    return read_groups(path, lambda ordinal: prompts.at(ordinal)[0]) if path.is_file() else ()


async def blocks_of(groups: Sequence[Group], rollouts: Rollouts) -> Sequence[TokenBlock]:
    """The block that holds the tokens of each sample, in order; each is fetched once."""
    handles: list[BlockHandle] = [sample.trajectory.block for group in groups for sample in group.samples]
    found = {id(handle): await rollouts.block(handle) for handle in {id(h): h for h in handles}.values()}
    return [found[id(handle)] for handle in handles]
