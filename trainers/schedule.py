"""The learning rate of each optimiser step."""

import math

from configs.schema.training import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Learning rate of optimiser step `step` (0 is the first): warm-up, then the schedule.

    The last warm-up step has the peak; the last of `total_steps` has the schedule's minimum, and so
    have steps after it.
    """
    done = step + 1
    if done <= config.warmup_steps:
        return config.learning_rate * done / config.warmup_steps
    share = min(1.0, (done - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    decay = {"constant": 0.0, "linear": share, "cosine": (1 - math.cos(math.pi * share)) / 2}[config.schedule]
    return config.learning_rate * (1 - decay * (1 - config.min_learning_rate_ratio))
