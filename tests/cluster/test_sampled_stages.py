"""What preferences and rejection sampling make of samples that are on disk already: nothing is started for them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from cluster.folder import RunFolder
from cluster.inputs import data_sources
from cluster.sampled_stages import preferences, rejection_sampling
from cluster.sampling import parts_of, read_inputs
from cluster.stage_work import held_out_data
from configs.schema import DataConfig, Stage
from experience.comparisons import ComparisonSet
from experience.conversations import JudgedEncoder
from experience.dataset import load_dataset
from experience.encoding import Encoder
from experience.parquet import read_parquet, write_parquet
from experience.tokenizer import load_tokenizer
from tests.actors.tiny_policies import make_policy

# Of each prompt: its samples and their rewards, and what `short` says of them.
SAMPLES = [
    [("1", 1.0, 1.0), ("2", 0.0, 1.0), ("1 ", 1.0, 1.0)],
    [("3", 0.0, 1.0), ("4", 0.0, 1.0), ("5", 0.0, 1.0)],
    [("a long one", 1.0, 0.0), ("6", 1.0, 0.5), ("7", None, 1.0)],
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy") / "model")


def staged(folder: Path, model: Path, kind: str, **changes: Any) -> Any:
    """The stage, with its samples in place; `rows`: those of SAMPLES to take."""
    rows: Sequence[int] = changes.pop("rows", (0, 1, 2))
    prompts = [{"prompt": f"{n} + 1 =", "answer": str(n + 1)} for n in rows]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    common: dict[str, Any] = {"name": "made", "output_dir": str(folder), "stage": kind, "samples_per_prompt": 3}
    data = {"train": str(folder / "prompts.jsonl"), "shuffle": False, "max_prompt_tokens": 24}
    common |= {"model": {"path": str(model)}, "data": data, "rewards": [{"use": "math"}], "prompts_per_part": 2}
    common |= {"rollout": {"sampling": {"max_response_tokens": 16}}}
    stage: Any = TypeAdapter(Stage).validate_python({**common, **changes})
    place = RunFolder(stage)
    place.path.mkdir()
    for part in parts_of(stage, read_inputs(stage, place), place.path / "samples"):
        samples = [
            {"ordinal": p.ordinal, "response": text, "reward": reward, "parts": json.dumps({"short": short})}
            for p in part.prompts
            for text, reward, short in SAMPLES[rows[p.row]]
        ]
        write_parquet(pa.Table.from_pylist(samples), part.file)
    return stage, place


def made(place: RunFolder) -> list[dict[str, Any]]:
    return read_parquet(place.path / "train.parquet").to_pylist()


def test_comparisons_are_such_as_the_reward_model_reads(tmp_path: Path, model: Path) -> None:
    stage, place = staged(tmp_path, model, "preferences")
    assert preferences(stage, place) == "1 comparisons of 3 prompts, 2.0 responses each"
    assert made(place) == [
        {"prompt": "0 + 1 =", "answer": "1", "responses": ["1", "2"], "ratings": [1.0, 0.0], "rewards": [1.0, 0.0]}
    ]
    encoder = JudgedEncoder(Encoder(load_tokenizer(model)))
    source = str(place.path / "train.parquet")
    comparisons = ComparisonSet(load_dataset(source), encoder, DataConfig(train=source), max_sequence_tokens=64)
    assert len(comparisons) == 1


def test_where_nothing_can_be_compared_is_told(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ValueError, match=r"^no prompt of 1 \(train\) has two different responses with different rat"):
        preferences(*staged(tmp_path, model, "preferences", rows=[1]))


def test_noise_is_told_with_the_comparisons(tmp_path: Path, model: Path) -> None:
    stage, place = staged(tmp_path, model, "preferences", label_temperature=1.0)
    assert "% of pairs flipped" in preferences(stage, place)
    assert len(made(place)) == 3, "with noise no two ratings are equal"


def test_what_is_right_readable_and_different_is_kept(tmp_path: Path, model: Path) -> None:
    readable = [{"use": "length", "name": "short", "at_least": 0.5}]
    stage, place = staged(tmp_path, model, "rejection_sampling", readable=readable, max_per_prompt=3)
    assert rejection_sampling(stage, place) == "2 responses to 2 of 3 prompts"
    assert [(row["prompt"], row["response"]) for row in made(place)] == [("0 + 1 =", "1"), ("2 + 1 =", "6")]


def test_where_nothing_is_kept_is_told(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ValueError, match=r"^none of 1 prompts has a response with a reward of 1 or more that is read"):
        rejection_sampling(*staged(tmp_path, model, "rejection_sampling", rows=[1]))


def test_held_out_comparisons_need_held_out_prompts(tmp_path: Path, model: Path) -> None:
    stage, place = staged(tmp_path, model, "preferences")
    with pytest.raises(ValueError, match=r"^num_eval_prompts=4: there are no held-out prompts; set data\.eval$"):
        read_inputs(stage, place, num_eval_prompts=4)


def test_a_response_that_the_model_has_no_room_for_is_told(tmp_path: Path, model: Path) -> None:
    stage, place = staged(tmp_path, model, "preferences")
    rollout = stage.rollout.model_copy(
        update={"sampling": stage.rollout.sampling.model_copy(update={"max_response_tokens": 300})}
    )
    with pytest.raises(ValueError, match="= 324 tokens, and the model takes 256; lower one of them"):
        read_inputs(stage.model_copy(update={"rollout": rollout}), place)


def test_the_held_out_problems_of_a_generator_are_evaluated(tmp_path: Path, model: Path) -> None:
    run = TypeAdapter(Stage).validate_python(
        {"name": "e", "output_dir": str(tmp_path), "stage": "evaluate", "model": {"path": str(model)},
         "data": {"arithmetic": {"num_train": 9, "num_eval": 4}, "max_prompt_tokens": 9}, "rewards": [{"use": "math"}]}
    )  # fmt: skip
    data = held_out_data(run.data, RunFolder(run))
    assert data.train == data_sources(run.data, RunFolder(run))[1]
    assert data.max_prompt_tokens == 9 and len(load_dataset(str(data.train))) == 4


def test_heads_that_devices_cannot_share_are_refused_before_anything_is_started(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ValueError, match=r"rollout\.tensor_parallel_size=3: .* choose one of 1, 2$"):
        staged(tmp_path, model, "preferences", rollout={"tensor_parallel_size": 3})
