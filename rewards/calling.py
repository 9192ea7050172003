"""Calling a loaded rule: one sample or a batch, sync or async, and what is made of its exceptions."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from rewards.coercion import as_score, as_scores
from rewards.contract import UNFIT, RewardError, RewardInput, Score, Status
from rewards.loading import Rule, describe

logger = logging.getLogger(__name__)


def call_one(rule: Rule, item: RewardInput) -> Score:
    """The verdict on one sample. An exception of the rule becomes an ERROR score, out of memory a MEMORY one."""
    try:
        return as_score(_result(rule, item), rule.where)
    except Exception as error:  # noqa: BLE001 - the rule may be anybody's code
        return _failure(rule, error)


def call_batch(rule: Rule, items: Sequence[RewardInput]) -> list[Score]:
    """The verdicts of a batch rule on all of `items`; where it fails, it fails for each."""
    try:
        return as_scores(_result(rule, list(items)), len(items), rule.where)
    except Exception as error:  # noqa: BLE001 - the rule may be anybody's code
        return [_failure(rule, error)] * len(items)


def _result(rule: Rule, argument: Any) -> Any:
    result = rule.function(argument, **rule.args)
    return asyncio.run(result) if rule.is_async else result


def _failure(rule: Rule, error: Exception) -> Score:
    if isinstance(error, MemoryError):
        return Score(value=None, status=Status.MEMORY, detail=f"{rule.where} ran out of memory")
    logger.warning("%s raised", rule.where, exc_info=error)
    if isinstance(error, RewardError):
        return Score(value=None, status=Status.ERROR, detail=f"{UNFIT}{error}")
    return Score(value=None, status=Status.ERROR, detail=describe(error, rule.file))
