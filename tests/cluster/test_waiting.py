"""Groups that wait for training, in and out of a checkpoint."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster.waiting import read_waiting, write_waiting
from experience.records import BlockHandle, Group, Prompt, Sampling, Scored, TokenBlock, Trajectory, Weights
from rewards.contract import Score, Status

MESSAGES = ({"role": "user", "content": "?"},)


class Numbers:
    """Prompts with all that a stored sample leaves out."""

    def at(self, ordinal: int, count: int = 1) -> list[Prompt]:
        return [
            Prompt(
                ordinal=o, epoch=0, row=o, tokens=np.array([o], np.int32), text=str(o),
                messages=MESSAGES, columns={"level": o},
            )
            for o in range(ordinal, ordinal + count)
        ]  # fmt: skip


class Store:
    """Blocks by name, as rollout workers keep them; counts how often each is fetched."""

    def __init__(self, **blocks: TokenBlock) -> None:
        self.blocks = blocks
        self.fetched: list[str] = []

    async def block(self, handle: BlockHandle) -> TokenBlock:
        self.fetched.append(handle)
        return self.blocks[handle]

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
        raise NotImplementedError

    async def load(self, weights: Weights) -> None:
        raise NotImplementedError


def block(*rows: list[int]) -> TokenBlock:
    """One prompt token a row, the others sampled."""
    tokens = np.array([token for row in rows for token in row], np.int32)
    offsets = np.cumsum([0, *map(len, rows)])
    mask = np.ones(len(tokens), np.bool_)
    mask[offsets[:-1]] = False
    logprobs = np.where(mask, -tokens / 7, 0).astype(np.float32)
    return TokenBlock(
        offsets=offsets,
        tokens=tokens,
        response_mask=mask,
        rollout_logprobs=logprobs,
        versions=np.where(mask, 3, -1).astype(np.int32),
    )


def group(prompt: Prompt, handle: str, rows: list[int], values: list[float | None]) -> Group:
    samples = tuple(
        Scored(
            trajectory=Trajectory(
                prompt=prompt,
                sample_index=index,
                block=handle,
                row=row,
                num_prompt_tokens=1,
                num_response_tokens=2,
                text="x",
                finish_reason="stop",
                min_version=3,
                max_version=3,
                mean_logprob=-1.0,
                worker="rollout-0",
            ),
            score=Score(value=value, parts={} if value is None else {"rule": value}, status=Status.OK),
        )
        for index, (row, value) in enumerate(zip(rows, values, strict=True))
    )
    return Group(prompt=prompt, samples=samples)


def test_groups_come_back_in_their_order_with_tokens_scores_and_whole_prompts(tmp_path: Path) -> None:
    store = Store(first=block([8, 1, 2], [8, 3, 4]), second=block([5, 5, 6], [9, 9, 9]))
    eight, five = Numbers().at(8)[0], Numbers().at(5)[0]
    groups = [group(eight, "first", [1, 0], [0.5, None]), group(five, "second", [0], [1.0])]
    groups[1] = replace(groups[1], greedy=replace(groups[1].samples[0], score=Score(value=0.25)))
    asyncio.run(write_waiting(tmp_path, 4, groups, store))
    found = read_waiting(tmp_path, Numbers())
    assert sorted(store.fetched) == ["first", "second"]
    assert [(g.prompt.ordinal, g.prompt.messages, g.prompt.columns) for g in found] == [
        (8, MESSAGES, {"level": 8}),
        (5, MESSAGES, {"level": 5}),
    ]
    assert found[1].greedy is not None and found[1].greedy.reward == 0.25
    for was, now in zip(groups, found, strict=True):
        for old, new in zip(was.samples, now.samples, strict=True):
            assert new.score == old.score
            kept, source = new.trajectory.block, store.blocks[old.trajectory.block]
            assert isinstance(kept, TokenBlock)
            for column in ("tokens", "response_mask", "rollout_logprobs", "versions"):
                expected = getattr(source, column)[source.span(old.trajectory.row)]
                actual = getattr(kept, column)[kept.span(new.trajectory.row)]
                assert expected.dtype == actual.dtype and np.array_equal(expected, actual), column


def test_where_nothing_waits_nothing_is_written(tmp_path: Path) -> None:
    asyncio.run(write_waiting(tmp_path, 4, [], Store()))
    assert list(tmp_path.iterdir()) == []
    assert read_waiting(tmp_path, Numbers()) == ()
