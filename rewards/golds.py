"""Gold answers that no response could ever equal: a fault of the data, found before the run."""

from collections.abc import Sequence

from configs.schema.rewards import RewardPoolConfig, RewardSpec
from rewards.contract import RewardInput
from rewards.pool import RewardPool

# Which rule says whether a gold answer is fit for a reward.
_READABLE_BY = {"math": "math_gold", "gsm8k": "number_gold"}


# Rewards that look at the response alone; every other one, a user's too, may compare with the gold.
_WITHOUT_GOLD = frozenset(
    {"format", "regex", "json_schema", "language", "blocklist", "repetition", "length", "overlong", "code"}
)


def needs_golds(specs: Sequence[RewardSpec]) -> bool:
    """Whether some reward of the run compares with a gold answer."""
    return any(spec.use not in _WITHOUT_GOLD and spec.model_path is None for spec in specs)


def unreadable_golds(
    items: Sequence[RewardInput], specs: Sequence[RewardSpec], limits: RewardPoolConfig
) -> dict[int, str]:
    """Row and reason of each gold answer that a reward of the run cannot compare with."""
    rules = {_READABLE_BY[spec.use]: spec for spec in specs if spec.use in _READABLE_BY}
    if not rules:
        return {}
    pool = RewardPool([RewardSpec(use=rule, task=spec.task) for rule, spec in rules.items()], limits)
    pool.start()
    try:
        scores = pool.score_blocking(items)
    finally:
        pool.close()
    return {
        row: score.detail or score.status.value
        for row, score in enumerate(scores)
        if score.status.is_failure or (score.value is not None and score.value < len(rules))
    }
