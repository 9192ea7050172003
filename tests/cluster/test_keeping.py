"""By what checkpoints are judged, and the recipes in which none ever could be."""

from pathlib import Path
from typing import Any

import pytest

from cluster.keeping import best_rule
from metrics.names import BETTER, metric
from tests.cluster.tiny_recipes import recipe
from trainers.best import BestRule

EVERY = {"evaluation": {"every_steps": 2}}
SUPERVISED = {"eval_every_steps": 2}
KEEP = {"every_steps": 2, "keep_best": 3}


@pytest.mark.parametrize(
    ("stage", "sections", "metric", "is_higher"),
    [
        ("rl", EVERY, "eval/accuracy", True),
        ("sft", SUPERVISED, "eval/loss", False),
        ("reward_model", SUPERVISED, "eval/preference_accuracy", True),
    ],
)
def test_each_stage_has_its_metric(
    tmp_path: Path, stage: str, sections: dict[str, Any], metric: str, is_higher: bool
) -> None:
    rule = best_rule(recipe(stage, tmp_path, checkpoint=KEEP, **sections))
    assert rule == BestRule(count=3, metric=metric, is_higher_better=is_higher)


def test_another_metric_may_be_named(tmp_path: Path) -> None:
    config = {**KEEP, "best_metric": "eval/perplexity"}
    rule = best_rule(recipe("sft", tmp_path, checkpoint=config, **SUPERVISED))
    assert rule == BestRule(count=3, metric="eval/perplexity", is_higher_better=False)


@pytest.mark.parametrize(
    ("config", "sections", "message"),
    [
        ({"best_metric": "eval/accuracy"}, EVERY, "best_metric has no effect with checkpoint.keep_best=0"),
        ({**KEEP, "best_metric": "eval/acc"}, EVERY, "best_metric='eval/acc': choose one of eval/accuracy"),
        ({**KEEP, "best_metric": "guard/gold"}, EVERY, "best_metric=guard/gold: no guard measures it"),
        (KEEP, {}, "set evaluation.every_steps and checkpoint.every_steps"),
        ({"keep_best": 1}, EVERY, "set evaluation.every_steps and checkpoint.every_steps"),
    ],
)
def test_what_could_never_be_judged_is_refused(
    tmp_path: Path, config: dict[str, Any], sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        best_rule(recipe("rl", tmp_path, checkpoint=config, **sections))


def test_where_a_guard_looks_gold_is_what_counts(tmp_path: Path) -> None:
    rule = best_rule(recipe("rl", tmp_path, checkpoint=KEEP, guard={"gold": [{"use": "exact"}]}))
    assert rule == BestRule(count=3, metric="guard/gold", is_higher_better=True)


def test_every_metric_to_judge_by_is_in_the_table() -> None:
    assert [metric(name).name for name in BETTER] == list(BETTER)
