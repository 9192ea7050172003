"""What a run may go on from: a whole checkpoint, by the same recipe but for what may change."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cluster.folder import RunFolder
from cluster.resuming import checkpoint_to_resume, is_same_recipe, run_snapshot
from configs.schema import BaseRun, Run
from tests.cluster.tiny_recipes import recipe
from trainers import checkpoint
from trainers.checkpoint import CheckpointError, Written


def changed(run: BaseRun, **changes: Any) -> BaseRun:
    """The run with other values of dotted keys (`__` stands for the dot)."""
    values = run.model_dump()
    for key, value in changes.items():
        *sections, name = key.split("__")
        section = values
        for part in sections:
            section = section[int(part) if part.isdecimal() else part]
        section[name] = value
    return TypeAdapter(Run).validate_python(values)


def save(run: BaseRun, step: int) -> Path:
    folder = checkpoint.folder_of(RunFolder(run).checkpoints, step)
    draft = checkpoint.begin(folder)
    asyncio.run(run_snapshot(run, {"step": step})(draft))
    (draft / "shard.pt").write_bytes(bytes(100))
    checkpoint.commit(draft, folder, Written(world_size=2, config_digest=""))
    return folder


def resume(run: BaseRun, *, exact: bool = False, allow: tuple[str, ...] = ()) -> Path | None:
    return checkpoint_to_resume(run, RunFolder(run), exact=exact, allow=allow)


@pytest.fixture
def run(tmp_path: Path) -> BaseRun:
    return recipe("rl", tmp_path)


@pytest.mark.parametrize("exact", [True, False])
def test_the_newest_checkpoint_of_the_same_recipe_is_resumed(run: BaseRun, exact: bool) -> None:
    save(run, 1)
    newest = save(run, 2)
    assert resume(run, exact=exact) == newest


def test_every_key_that_differs_is_listed_with_both_values(run: BaseRun) -> None:
    folder = save(run, 1)
    other = changed(run, optimizer__learning_rate=0.5, seed=7, rewards__0__weight=2.0)
    with pytest.raises(ValueError) as refused:
        resume(other)
    assert str(refused.value) == (
        f"{folder}: its recipe differs in seed (0, now 7), optimizer.learning_rate (0.001, now 0.5), "
        "rewards.0.weight (1.0, now 2.0); set each back, or resume with --allow KEY for each"
    )


@pytest.mark.parametrize("allow", [("seed", "optimizer.learning_rate"), ("seed", "optimizer")])
def test_keys_and_whole_sections_can_be_allowed(run: BaseRun, allow: tuple[str, ...]) -> None:
    folder = save(run, 1)
    other = changed(run, optimizer__learning_rate=0.5, seed=7)
    assert resume(other, allow=allow) == folder
    assert not is_same_recipe(folder, other)
    with pytest.raises(ValueError, match=r"differs in optimizer\.learning_rate \(0\.001, now 0\.5\); set"):
        resume(other, allow=("seed",))


def test_an_allowed_key_that_does_not_exist_is_refused_and_one_that_does_not_differ_is_not(run: BaseRun) -> None:
    folder = save(run, 1)
    assert resume(run, allow=("seed",)) == folder
    with pytest.raises(ValueError, match=r"--allow optimizer\.lerning_rate: not a key .*optimizer\.learning_rate\?"):
        resume(run, allow=("optimizer.lerning_rate",))


@pytest.mark.parametrize(
    ("changes", "is_exact"),
    [
        ({"logging__tensorboard": False}, True),
        ({"checkpoint__every_steps": 5}, True),
        ({"cluster__num_cpus": 8}, True),
        ({"evaluation__every_steps": 1}, True),
        ({"trainer__max_restarts": 0}, True),
        ({"max_hours": 1.0}, True),
        ({"rollout__progress_timeout_seconds": 1.0}, True),
        ({"num_steps": 9}, False),
        ({"rollout__num_workers": 3}, False),
        ({"trainer__num_ranks": 1}, False),
    ],
)
def test_surroundings_may_always_change_and_sizes_where_no_bit_must_stay(
    run: BaseRun, changes: dict[str, Any], is_exact: bool
) -> None:
    folder = save(run, 1)
    other = changed(run, **changes)
    assert resume(other) == folder and is_same_recipe(folder, other)
    if is_exact:
        assert resume(other, exact=True) == folder
    else:
        with pytest.raises(ValueError, match=next(iter(changes)).replace("__", ".")):
            resume(other, exact=True)


def test_a_shape_that_no_shard_would_fit_is_refused_though_allowed(run: BaseRun) -> None:
    save(run, 1)
    other = changed(run, trainer__zero_stage=3)
    with pytest.raises(ValueError, match=r"trainer\.zero_stage=1 when it was written, now 3: its shards do not fit"):
        resume(other, allow=("trainer",))


@pytest.mark.parametrize("damage", ["flipped", "truncated"])
@pytest.mark.parametrize("name", ["shard.pt", "state.json", "recipe.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_and_refused_where_it_must_be_exact(
    run: BaseRun, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    older, newer = save(run, 1), save(run, 2)
    content = bytearray((newer / name).read_bytes())
    content[len(content) // 2] ^= 1
    (newer / name).write_bytes(content if damage == "flipped" else content[:-20])
    with caplog.at_level(logging.WARNING):
        assert resume(run) == older
    assert f"{newer / name}" in caplog.text
    with pytest.raises(CheckpointError, match=f"step_000002/{name}"):
        resume(run, exact=True)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    run: BaseRun, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(run)
    with pytest.raises(ValueError, match="nothing to resume there; run without --resume"):
        resume(run)
    folder.path.mkdir(parents=True)
    folder.metrics.write_text(json.dumps({"step": 0}) + "\n")
    assert resume(run) is None
    assert "no checkpoint yet; the run begins again" in caplog.text


def test_exact_and_allow_exclude_each_other(run: BaseRun) -> None:
    save(run, 1)
    with pytest.raises(ValueError, match="--allow seed with --exact"):
        resume(run, exact=True, allow=("seed",))


def test_no_secret_is_kept_in_a_checkpoint(run: BaseRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "canary-canary")
    secret = changed(run, rewards__0__args={"api_key": "canary-canary"})
    folder = save(secret, 1)
    assert "canary" not in (folder / "recipe.json").read_text()
    assert resume(secret) == folder
