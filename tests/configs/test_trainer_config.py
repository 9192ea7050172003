"""Combinations of the trainer's settings that can't work, each refused in one line."""

import pytest
from pydantic import ValidationError

from configs.schema import ReferenceConfig, RlRun, TrainerConfig


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"num_ranks": 3, "sequence_parallel_size": 2}, "must be a multiple of sequence_parallel_size=2; nearest: 4"),
        (
            {"offload_parameters": True, "zero_stage": 2},
            "offload_parameters=true with zero_stage=2: .* set zero_stage=3",
        ),
        ({"offload_optimizer": True, "zero_stage": 0}, "offload_optimizer=true with zero_stage=0: .* set zero_stage=1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TrainerConfig.model_validate(settings)


def test_ranks_that_share_tokens_get_one_part_of_a_batch() -> None:
    assert TrainerConfig(num_ranks=6, sequence_parallel_size=3).num_data_ranks == 2


@pytest.mark.parametrize("section", ["critic", "reference"])
def test_own_ranks_share_tokens_as_the_policys_do(section: str) -> None:
    recipe = {
        "stage": "rl",
        "name": "own",
        "num_steps": 1,
        "model": {"path": "somewhere"},
        "data": {"train": "somewhere.parquet"},
        "rewards": [{"use": "math"}],
        "trainer": {"num_ranks": 4, "sequence_parallel_size": 2},
    }
    complaint = f"{section}.num_ranks=3 must be a multiple of trainer.sequence_parallel_size=2.*nearest: 4"
    with pytest.raises(ValidationError, match=complaint):
        RlRun.model_validate({**recipe, section: {"num_ranks": 3}})
    RlRun.model_validate({**recipe, section: {"num_ranks": 2}})


def test_a_reference_on_the_policys_ranks_is_partitioned_as_these_say() -> None:
    with pytest.raises(ValidationError, match="zero_stage=3 has no effect with num_ranks=0"):
        ReferenceConfig(zero_stage=3)
    assert ReferenceConfig(zero_stage=3, num_ranks=2).zero_stage == 3
