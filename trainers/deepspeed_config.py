"""Our settings in DeepSpeed's words."""

from typing import Any

import torch

from configs.schema.model import Dtype
from configs.schema.training import OptimizerConfig, TrainerConfig

# ZeRO-3 keeps smaller parameters whole on every rank: gathering norms one by one costs more than it saves.
PERSISTENT_PARAMETER_ELEMENTS = 10_000
REDUCE_BUCKET_ELEMENTS = 200_000_000


def check_offload(config: TrainerConfig) -> None:
    """ValueError where there is no device to offload from."""
    for key, is_set in (
        ("trainer.offload_optimizer", config.offload_optimizer),
        ("trainer.offload_parameters", config.offload_parameters),
    ):
        if is_set and not torch.cuda.is_available():
            raise ValueError(f"{key}=true: without a GPU there is nothing to offload from; set it to false")


def deepspeed_config(
    optimizer: OptimizerConfig | None,
    trainer: TrainerConfig,
    dtype: Dtype,
    *,
    num_trained: int = REDUCE_BUCKET_ELEMENTS,
) -> dict[str, Any]:
    """What `deepspeed.initialize` takes. `optimizer`: None for a model that is never trained."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # our micro-batches differ in size; DeepSpeed needs some number
        "gradient_accumulation_steps": 1,
        "zero_optimization": _zero_config(trainer, num_trained),
        "bf16": {"enabled": dtype == "bfloat16"},
        "steps_per_print": 1_000_000_000,
    }
    if optimizer is not None:
        adam = {
            "lr": optimizer.learning_rate,
            "betas": (optimizer.beta1, optimizer.beta2),
            "eps": optimizer.epsilon,
            "weight_decay": optimizer.weight_decay,
            # DeepSpeed's own Adam would be compiled with g++ on a CPU.
            "torch_adam": not torch.cuda.is_available(),
        }
        config |= {"gradient_clipping": optimizer.max_grad_norm, "optimizer": {"type": "AdamW", "params": adam}}
    return config


def _zero_config(trainer: TrainerConfig, num_trained: int) -> dict[str, Any]:
    # The bucket is allocated whole, however small the model.
    bucket = max(1, min(REDUCE_BUCKET_ELEMENTS, num_trained))
    zero: dict[str, Any] = {"stage": trainer.zero_stage, "reduce_bucket_size": bucket}
    if trainer.zero_stage == 3:
        zero["stage3_param_persistence_threshold"] = PERSISTENT_PARAMETER_ELEMENTS
    if trainer.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if trainer.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return zero
