"""What can be found wrong in the objective of reinforcement learning without a model, or torch."""

from algorithms.algorithm import Algorithm
from configs.schema import CriticConfig, GuardConfig, ReferenceConfig, RlRun


def check_objective(run: RlRun, algorithm: Algorithm) -> None:
    """ValueError for settings that go with another algorithm."""
    if run.critic != CriticConfig() and not algorithm.needs_critic:
        raise ValueError(f"critic has no effect: advantage={algorithm.advantage!r} has none; set advantage: gae")
    if run.reference != ReferenceConfig() and not (algorithm.needs_reference or run.measures_kl):
        raise ValueError("reference has no effect: kl_coef=0 compares with none; set algorithm.kl_coef")
    if algorithm.critic_warmup_steps >= run.num_steps:
        raise ValueError(
            f"algorithm.critic_warmup_steps={algorithm.critic_warmup_steps} leaves none of num_steps={run.num_steps} "
            "for the policy; raise num_steps"
        )
    if run.guard is not None:
        _check_guard(run, run.guard, algorithm)


def _check_guard(run: RlRun, guard: GuardConfig, algorithm: Algorithm) -> None:
    if run.data.train is not None and run.data.eval is None:
        raise ValueError("guard without data.eval: it looks at held-out prompts; set data.eval, or leave guard out")
    if guard.action == "lower_kl" and not algorithm.needs_reference:
        raise ValueError(
            "guard.action=lower_kl with algorithm.kl_coef=0: there is no KL in the objective to hold tighter; set "
            "kl_coef, or another action"
        )
    if guard.measure_kl and algorithm.reference_refresh_steps:
        raise ValueError(
            f"guard.measure_kl=true with algorithm.reference_refresh_steps={algorithm.reference_refresh_steps}: the "
            "reference moves, so that it tells no distance from the initial policy; set measure_kl=false"
        )
    every = run.checkpoint.every_steps
    if guard.action in ("stop", "roll_back") and run.checkpoint.keep_best and (not every or guard.every_steps % every):
        raise ValueError(
            f"guard.every_steps={guard.every_steps} must be a multiple of checkpoint.every_steps={every}: what was "
            f"looked at must be saved to go back to it; set checkpoint.every_steps={guard.every_steps}"
        )
