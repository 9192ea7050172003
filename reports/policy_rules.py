"""Rules about how the run learns: the policy, its updates, the critic, losses, time."""

from statistics import fmean

from metrics.names import PHASES
from reports.curves import Curves, Finding, ends, gaps, summed


def entropy_collapse(curves: Curves) -> Finding | None:
    """Entropy ends below a fifth of where it began: all samples of a prompt become the same."""
    early, late = ends(curves, "policy/entropy")
    if early is None or late is None or early.mean <= 0.05 or late.mean >= 0.2 * early.mean:
        return None
    return Finding(
        tone="bad",
        title="Entropy collapsed",
        evidence=f"policy/entropy fell from {early} to {late} nats.",
        advice="Samples of a prompt become alike and teach nothing; try algorithm.entropy_coef, a higher clip_high, or "
        "a smaller learning rate.",
    )


def mismatch_grows(curves: Curves) -> Finding | None:
    """The engine's distribution drifts away from the trainer's: threefold, and beyond rounding."""
    early, late = ends(curves, "mismatch/kl")
    if early is None or late is None or late.mean < 1e-3 or late.mean < 3 * early.mean:
        return None
    return Finding(
        tone="bad",
        title="Engine and trainer drift apart",
        evidence=f"mismatch/kl grew from {early} to {late} nats.",
        advice="Samples come from another policy than the one that learns: compare rollout.dtype with model.dtype, and "
        "set algorithm.correction.",
    )


def kl_runs_away(curves: Curves) -> Finding | None:
    """The policy is far from its reference, and still leaving: above 0.5 nats a token and twice the middle's."""
    series = curves.get("policy/kl_ref")
    _, late = ends(curves, "policy/kl_ref")
    if series is None or late is None or late.mean < 0.5:
        return None
    middle = [value for _, value in series.finite][len(series.finite) // 3 : 2 * len(series.finite) // 3]
    if late.mean < 2 * fmean(middle):
        return None
    return Finding(
        tone="bad",
        title="KL runs away",
        evidence=f"policy/kl_ref is {late} nats a token; in the middle of the run it was {fmean(middle):.3g}.",
        advice="Raise algorithm.kl_coef, or lower the learning rate; read the best samples for a hacked reward.",
    )


def much_clipped(curves: Curves) -> Finding | None:
    """A fifth of the latest tokens lies outside the clip range."""
    low, high = (ends(curves, f"policy/clip_fraction_{side}")[1] for side in ("low", "high"))
    share = (low.mean if low else 0.0) + (high.mean if high else 0.0)
    if share < 0.2:
        return None
    return Finding(
        tone="bad",
        title="Much is clipped",
        evidence=f"{share:.0%} of the response tokens of the latest steps lie outside the clip range.",
        advice="Fewer updates a batch, a smaller learning rate, or fresher samples.",
    )


def updates_skipped(curves: Curves) -> Finding | None:
    """Updates were left out for a loss or gradient that was not finite."""
    names = [name for name in ("optimizer/skipped_steps", "critic/skipped_steps") if name in curves]
    total = sum(value for name in names for _, value in curves[name].finite)
    if not total:
        return None
    return Finding(
        tone="bad",
        title="Updates were skipped",
        evidence=f"{total:.0f} updates had a loss or a gradient that was not finite.",
    )


def not_finite(curves: Curves) -> Finding | None:
    """Metrics that were NaN or infinite at some step."""
    broken = {name: steps for name, series in curves.items() if (steps := gaps(series))}
    if not broken:
        return None
    first = min(steps[0] for steps in broken.values())
    return Finding(
        tone="bad",
        title="Numbers that are none",
        evidence=f"NaN or infinite, for the first time at step {first}: {', '.join(sorted(broken)[:6])}"
        + (f" and {len(broken) - 6} more." if len(broken) > 6 else "."),
    )


def critic_is_blind(curves: Curves) -> Finding | None:
    """The critic's values explain less of the returns than their mean would."""
    _, late = ends(curves, "value/explained_variance")
    if late is None or late.mean >= 0:
        return None
    return Finding(
        tone="bad",
        title="The critic explains nothing",
        evidence=f"value/explained_variance is {late} at the end; guessing the mean return would give 0.",
        advice="Warm it up for longer (algorithm.critic_warmup_steps), or raise critic.optimizer.learning_rate.",
    )


def held_out_loss_turns(curves: Curves) -> Finding | None:
    """The held-out loss is 5 % above its lowest value: the model learns its data by heart."""
    series = curves.get("eval/loss")
    if series is None or len(series.finite) < 3:
        return None
    step, lowest = min(series.finite, key=lambda point: point[1])
    last, value = series.finite[-1]
    if value < 1.05 * lowest:
        return None
    return Finding(
        tone="bad",
        title="Held-out loss rises again",
        evidence=f"eval/loss was lowest at step {step} ({lowest:.4g}), and is {value:.4g} at step {last}.",
        advice="Stop earlier, or train on more data.",
    )


def one_phase_takes_the_time(curves: Curves) -> Finding | None:
    """One phase takes three fifths of the steps' time or more; training may, where nothing is sampled beside it."""
    seconds = {phase: summed(curves, f"time/{phase}") for phase in (*PHASES, "other")}
    total = summed(curves, "time/step")
    phase, most = max(seconds.items(), key=lambda item: item[1])
    is_due = phase == "train" and "time/generate" not in curves
    if total <= 0 or most < 0.6 * total or is_due:
        return None
    meaning = PHASES.get(phase, "no phase covers it")
    return Finding(
        tone="note",
        title=f"Time goes mostly into {phase}",
        evidence=f"{most:.0f} of {total:.0f} s of all steps ({most / total:.0%}): {meaning}.",
    )
