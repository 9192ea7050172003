"""Combinations of the trainer's settings that can't work, each refused in one line."""

import pytest
from pydantic import ValidationError

from configs.schema import TrainerConfig


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
