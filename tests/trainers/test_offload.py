"""What can't be offloaded."""

import pytest
from torch import nn

from configs.schema import OptimizerConfig, TrainerConfig
from trainers.zero import ZeroEngine


@pytest.mark.parametrize("key", ["offload_optimizer", "offload_parameters"])
def test_offloading_without_a_gpu_is_refused(key: str) -> None:
    config = TrainerConfig.model_validate({key: True, "zero_stage": 3})
    with pytest.raises(ValueError, match=rf"trainer\.{key}=true: without a GPU .* set it to false"):
        ZeroEngine(nn.Linear(1, 1), OptimizerConfig(), config, dtype="float32", total_steps=1)
