"""Whether a step's verdicts can be trusted: too many failures, no answers at all, nothing to tell apart."""

import logging
from collections import Counter
from collections.abc import Sequence

from rewards.contract import RewardError, RewardInput, Score, Status

logger = logging.getLogger(__name__)

_NO_ANSWER_LIMIT = 0.98  # "near 100 %": a policy that can do anything at all finds its marker now and then


def status_rates(scores: Sequence[Score]) -> dict[str, float]:
    """The share of each status, by its name, all of them present."""
    counts = Counter(score.status for score in scores)
    return {status.value: counts[status] / max(len(scores), 1) for status in Status}


def check_failures(items: Sequence[RewardInput], scores: Sequence[Score], max_error_rate: float) -> None:
    """RewardError when more than `max_error_rate` of a step's scores failed; it names the first and its reason."""
    failed = [(item, score) for item, score in zip(items, scores, strict=True) if score.status.is_failure]
    if len(failed) <= max_error_rate * len(scores):
        return
    item, score = failed[0]
    kinds = ", ".join(f"{count} {status.value}" for status, count in Counter(s.status for _, s in failed).items())
    raise RewardError(
        f"{len(failed)} of {len(scores)} samples could not be scored ({kinds}), more than "
        f"reward_pool.max_error_rate={max_error_rate:g} allows; the first is {item.id or 'without id'}: {score.detail}"
    )


def check_first_step(items: Sequence[RewardInput], scores: Sequence[Score]) -> None:
    """RewardError when nearly no response holds an answer: the rewards look for a marker nobody writes.

    Logs the rate else, and a warning with three responses when every reward is the same.
    """
    if not scores:
        return
    rate = status_rates(scores)[Status.NO_ANSWER.value]
    if rate >= _NO_ANSWER_LIMIT:
        first = next(row for row, score in enumerate(scores) if score.status is Status.NO_ANSWER)
        raise RewardError(
            f"{rate:.0%} of the first {len(scores)} responses hold no answer ({scores[first].detail}): ask for this "
            f"form in the prompt (data.system_prompt), or set the reward's `marker`; one response: "
            f"{items[first].response[-200:]!r}"
        )
    logger.info("responses without an answer in the first step: %.1f %%", 100 * rate)
    if are_equal(scores):
        logger.warning(
            "every reward of the first step is %s, which teaches nothing: %s", *_equal_rewards(items, scores)
        )


def are_equal(scores: Sequence[Score]) -> bool:
    """Whether a step's rewards are all the same, or none: nothing can be learned from it."""
    return len({score.value for score in scores if score.value is not None}) < 2 and len(scores) > 1


def check_equal_steps(
    items: Sequence[RewardInput], scores: Sequence[Score], num_equal_steps: int, limit: int | None
) -> None:
    """RewardError when the last `num_equal_steps` steps, this one included, had equal rewards and reach the limit."""
    if limit is not None and num_equal_steps >= limit:
        value, samples = _equal_rewards(items, scores)
        raise RewardError(
            f"{num_equal_steps} steps in a row had equal rewards, as many as reward_pool.stop_after_equal_steps "
            f"allows; every reward of the last one is {value}: {samples}"
        )


def _equal_rewards(items: Sequence[RewardInput], scores: Sequence[Score]) -> tuple[float | None, str]:
    """The one value, and three of the responses."""
    value = next((score.value for score in scores if score.value is not None), None)
    return value, "; ".join(repr(item.response[-100:]) for item in items[:3])
