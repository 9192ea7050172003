import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experience.errors import DataError
from experience.records import Group, Prompt, Scored, TokenBlock, Trajectory
from experience.store import SCHEMA, read_trajectories, write_trajectories
from experience.stored_groups import read_groups
from rewards.contract import Score, Status


def block_of(sequences):
    """A block of (prompt tokens, response tokens); versions and log-probs tell the token."""
    tokens = [list(prompt) + list(response) for prompt, response in sequences]
    flat = np.array([token for one in tokens for token in one], dtype=np.int32)
    mask = np.array([flag for p, r in sequences for flag in [False] * len(p) + [True] * len(r)], dtype=bool)
    return TokenBlock(
        offsets=np.cumsum([0] + [len(one) for one in tokens]),
        tokens=flat,
        response_mask=mask,
        rollout_logprobs=np.where(mask, -flat / 100, 0).astype(np.float32),
        versions=np.where(mask, 7, -1).astype(np.int32),
    )


def group_of(ordinal, block, rows, *, num_prompt_tokens, scores):
    prompt = Prompt(ordinal=ordinal, epoch=1, row=40 + ordinal, tokens=np.zeros(0, np.int32), text="p?", answer="1")
    samples = tuple(
        Scored(
            trajectory=Trajectory(
                prompt=prompt,
                sample_index=index,
                block=block,
                row=row,
                num_prompt_tokens=num_prompt_tokens,
                num_response_tokens=len(block.tokens[block.span(row)]) - num_prompt_tokens,
                text=f"response {index}",
                finish_reason="stop",
                min_version=6,
                max_version=7,
                mean_logprob=-0.5,
                worker="w0",
            ),
            score=score,
        )
        for index, (row, score) in enumerate(zip(rows, scores, strict=True))
    )
    return Group(prompt=prompt, samples=samples)


def two_groups():
    """Two samples in one block, out of order, and one in another whose first row belongs to nobody."""
    first, second = block_of([((1, 2), (3,)), ((1, 2), (4, 5))]), block_of([((9,), (9,)), ((6,), (7, 8))])
    failed = Score(value=None, status=Status.TIMEOUT, detail="5 s")
    right = Score(value=1.5, parts={"math": 1.0, "format": 0.5})
    groups = [
        group_of(0, first, [1, 0], num_prompt_tokens=2, scores=[right, failed]),
        group_of(1, second, [1], num_prompt_tokens=1, scores=[Score(value=0.0, status=Status.NO_ANSWER)]),
    ]
    return groups, [first, first, second]


def test_stored_groups_come_back_as_they_were(tmp_path):
    groups, blocks = two_groups()
    greedy = replace(groups[0].samples[0], score=Score(value=0.25))
    write_trajectories(tmp_path / "s.parquet", 12, [replace(groups[0], greedy=greedy), groups[1]], [0.5, 0, 0], blocks)
    found = read_groups(tmp_path / "s.parquet")
    assert [group.prompt.ordinal for group in found] == [0, 1]
    assert [sample.score for group in found for sample in group.samples] == [
        sample.score for group in groups for sample in group.samples
    ]
    assert [None if group.greedy is None else group.greedy.reward for group in found] == [0.25, None]
    for old, new in zip(
        [s.trajectory for g in groups for s in g.samples], [s.trajectory for g in found for s in g.samples], strict=True
    ):
        assert (new.id, new.num_prompt_tokens, new.num_response_tokens) == (
            old.id,
            old.num_prompt_tokens,
            old.num_response_tokens,
        )
        for column in ("tokens", "response_mask", "rollout_logprobs", "versions"):
            was, now = (getattr(t.block, column)[t.block.span(t.row)] for t in (old, new))
            assert np.array_equal(was, now), column


def test_every_column_comes_back_as_it_was(tmp_path):
    groups, blocks = two_groups()
    write_trajectories(tmp_path / "s.parquet", 12, groups, [0.5, None, -0.5], blocks)
    rows = read_trajectories(tmp_path / "s.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["0.0", "0.1", "1.0"]
    assert [row["prompt_tokens"] for row in rows] == [[1, 2], [1, 2], [6]]
    assert [row["response_tokens"] for row in rows] == [[4, 5], [3], [7, 8]]
    assert [row["advantage"] for row in rows] == [0.5, None, -0.5]
    assert [row["reward"] for row in rows] == [1.5, None, 0.0]
    assert [row["status"] for row in rows] == ["ok", "timeout", "no_answer"]
    assert rows[0].pop("rollout_logprobs") == pytest.approx([-0.04, -0.05])
    assert rows[0] == {
        "id": "0.0",
        "step": 12,
        "ordinal": 0,
        "epoch": 1,
        "row": 40,
        "sample_index": 0,
        "prompt": "p?",
        "messages": None,
        "response": "response 0",
        "answer": "1",
        "reward": 1.5,
        "reward_parts": [("math", 1.0), ("format", 0.5)],
        "status": "ok",
        "detail": "",
        "advantage": 0.5,
        "greedy_reward": None,
        "finish_reason": "stop",
        "worker": "w0",
        "min_version": 6,
        "max_version": 7,
        "prompt_tokens": [1, 2],
        "response_tokens": [4, 5],
        "response_mask": [True, True],
        "versions": [7, 7],
        "old_logprobs": None,
    }


def test_the_trainers_log_probs_stand_beside_the_engines(tmp_path):
    groups, blocks = two_groups()
    old = [np.array(values, dtype=np.float32) for values in ([-1, -2], [-3], [-4, -5])]
    write_trajectories(tmp_path / "s.parquet", 1, groups, [0.0] * 3, blocks, old)
    table = read_trajectories(tmp_path / "s.parquet")
    assert table["old_logprobs"].to_pylist() == [[-1, -2], [-3], [-4, -5]]


def test_a_step_without_samples_is_a_file_without_rows(tmp_path):
    write_trajectories(tmp_path / "s.parquet", 1, [], [], [])
    assert read_trajectories(tmp_path / "s.parquet").schema.equals(SCHEMA)


def test_the_schema_says_what_each_column_means(tmp_path):
    write_trajectories(tmp_path / "s.parquet", 1, [], [], [])
    schema = pq.read_schema(tmp_path / "s.parquet")
    assert all(field.metadata[b"meaning"] for field in schema)


def test_other_parquet_files_are_refused(tmp_path):
    pq.write_table(pa.table({"id": ["0.0"]}), tmp_path / "s.parquet")
    with pytest.raises(DataError, match=r"s.parquet: holds no trajectories of ours"):
        read_trajectories(tmp_path / "s.parquet")
    newer = pa.table({"id": ["0.0"]}).replace_schema_metadata({"wutong.trajectories": "99"})
    pq.write_table(newer, tmp_path / "s.parquet")
    with pytest.raises(DataError, match=r"trajectories of schema 99; this version reads schema 1"):
        read_trajectories(tmp_path / "s.parquet")


def test_a_step_of_512_samples_is_written_at_once(tmp_path):
    groups, blocks = [], []
    for ordinal in range(64):
        block = block_of([(range(10), range(40))] * 8)
        groups.append(group_of(ordinal, block, range(8), num_prompt_tokens=10, scores=[Score(value=1.0)] * 8))
        blocks += [block] * 8
    seconds = []
    for _ in range(5):
        start = time.process_time()
        write_trajectories(tmp_path / "s.parquet", 1, groups, [0.0] * 512, blocks)
        seconds.append(time.process_time() - start)
    assert read_trajectories(tmp_path / "s.parquet").num_rows == 512
    assert min(seconds) < 0.1  # 5 ms when measured alone


def test_columns_can_be_read_alone(tmp_path):
    groups, blocks = two_groups()
    write_trajectories(tmp_path / "s.parquet", 12, groups, [0.5, None, -0.5], blocks)
    table = read_trajectories(tmp_path / "s.parquet", ("id", "reward"))
    assert table.to_pydict() == {"id": ["0.0", "0.1", "1.0"], "reward": [1.5, None, 0.0]}
    write_trajectories(tmp_path / "none.parquet", 1, [], [], [])
    assert read_trajectories(tmp_path / "none.parquet", ("id", "reward")).num_rows == 0
