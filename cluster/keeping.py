"""By what a run's checkpoints are judged, where the best are kept."""

from configs.schema import BaseRun, DpoRun, RewardModelRun, RlRun, SupervisedRun
from metrics.names import BETTER
from trainers.best import BestRule


def best_rule(run: BaseRun) -> BestRule | None:
    """The recipe's; None where only the newest are kept. ValueError where no checkpoint could ever be judged by it."""
    config = run.checkpoint
    if not config.keep_best:
        if config.best_metric is not None:
            raise ValueError("checkpoint.best_metric has no effect with checkpoint.keep_best=0; set keep_best")
        return None
    metric = config.best_metric or _natural(run)
    if metric not in BETTER:
        raise ValueError(f"checkpoint.best_metric={metric!r}: choose one of {', '.join(sorted(BETTER))}")
    key, every = _evaluation(run, metric)
    if not every or not config.every_steps:
        raise ValueError(
            f"checkpoint.keep_best={config.keep_best}: only the last step is both evaluated and saved; set {key} and "
            "checkpoint.every_steps, one a multiple of the other"
        )
    return BestRule(count=config.keep_best, metric=metric, is_higher_better=BETTER[metric] == "higher")


def _natural(run: BaseRun) -> str:
    if isinstance(run, RlRun):
        return "eval/accuracy" if run.guard is None else "guard/gold"
    return "eval/preference_accuracy" if isinstance(run, RewardModelRun | DpoRun) else "eval/loss"


def _evaluation(run: BaseRun, metric: str) -> tuple[str, int]:
    """The key that says how often this metric is measured, and its value."""
    if metric.startswith("guard/"):
        if not isinstance(run, RlRun) or run.guard is None:
            raise ValueError(f"checkpoint.best_metric={metric}: no guard measures it; set guard, or another metric")
        return "guard.every_steps", run.guard.every_steps
    if isinstance(run, RlRun):
        return "evaluation.every_steps", run.evaluation.every_steps
    assert isinstance(run, SupervisedRun)
    return "eval_every_steps", run.eval_every_steps
