"""Rules about what the run learns from: rewards, verdicts, groups, responses."""

from statistics import fmean

from reports.curves import MIN_STEPS, Curves, Finding, ends, is_below, status_share

_NO_LEARNING_STEPS = 20


def reward_flat(curves: Curves) -> Finding | None:
    """After 20 steps the mean reward is where it began, as far as its scatter from step to step can tell."""
    series = curves.get("reward/mean")
    early, late = ends(curves, "reward/mean")
    if series is None or early is None or late is None or len(series.finite) < _NO_LEARNING_STEPS:
        return None
    if abs(late.mean - early.mean) > 2 * (early.error**2 + late.error**2) ** 0.5:
        return None
    return Finding(
        tone="bad",
        title="Reward is flat",
        evidence=f"reward/mean was {early} and is {late} after {len(series.finite)} steps; the difference is within "
        "two standard errors of the scatter between steps.",
        advice="Look at group/equal_fraction and at samples: there may be no signal, or too small a learning rate.",
    )


def reward_falls(curves: Curves) -> Finding | None:
    """The mean reward ends clearly below where it began."""
    early, late = ends(curves, "reward/mean")
    if early is None or late is None or not is_below(late, early):
        return None
    return Finding(
        tone="bad",
        title="Reward falls",
        evidence=f"reward/mean went from {early} to {late}.",
        advice="The updates hurt: look at the KL divergence, the clip fraction and the mismatch before this.",
    )


def reward_rises(curves: Curves) -> Finding | None:
    """The mean reward ends clearly above where it began."""
    early, late = ends(curves, "reward/mean")
    if early is None or late is None or not is_below(early, late):
        return None
    return Finding(tone="good", title="Reward rises", evidence=f"reward/mean went from {early} to {late}.")


def held_out_moves(curves: Curves) -> Finding | None:
    """The 95 % intervals of the first and the last held-out accuracy do not meet."""
    accuracy, low, high = (curves.get(f"eval/accuracy{end}") for end in ("", "_low", "_high"))
    if accuracy is None or low is None or high is None or not min(map(len, (accuracy.finite, low.finite, high.finite))):
        return None
    (first, before), (last, after) = accuracy.finite[0], accuracy.finite[-1]
    (_, first_low), (_, last_low) = low.finite[0], low.finite[-1]
    (_, first_high), (_, last_high) = high.finite[0], high.finite[-1]
    rose, fell = first_high < last_low, last_high < first_low
    if not rose and not fell:
        return None
    return Finding(
        tone="good" if rose else "bad",
        title="Held-out accuracy rose" if rose else "Held-out accuracy fell",
        evidence=f"eval/accuracy went from {before:.1%} ({first_low:.1%} to {first_high:.1%}) at step {first} to "
        f"{after:.1%} ({last_low:.1%} to {last_high:.1%}) at step {last}; the 95 % intervals do not meet.",
        advice="" if rose else "The training reward no longer stands for what is measured.",
    )


def over_optimised(curves: Curves) -> Finding | None:
    """At a look, gold was below its best beyond noise, and the proxy was not: the newest such look."""
    below, best, acts = (curves.get(f"guard/{name}") for name in ("looks_below", "best_step", "actions"))
    looks = [step for step, count in below.finite if count] if below else []
    if not looks or best is None:
        return None
    step = looks[-1]
    gold, proxy = (_with_interval(curves, f"guard/{name}_since_best", step) for name in ("gold", "proxy"))
    best_step = best.at(step) or 0
    num_actions = acts.at(step) if acts else None
    acted = f" The guard has acted {num_actions:.0f} times by then." if num_actions else ""
    return Finding(
        tone="bad",
        title="The proxy is over-optimised",
        evidence=f"At step {step} gold had changed by {gold} since the best look, step {best_step:.0f}, and the "
        f"proxy by {proxy}; 95 % intervals over the same prompts.{acted}",
        advice="The reward no longer stands for what counts: use the best look's checkpoint, hold the KL tighter, or "
        "train the reward model anew on responses of this policy.",
    )


def _with_interval(curves: Curves, name: str, step: int) -> str:
    mean, low, high = (curves[name + end].at(step) if name + end in curves else None for end in ("", "_low", "_high"))
    return "?" if mean is None or low is None or high is None else f"{mean:+.3g} ({low:+.3g} to {high:+.3g})"


def groups_equal(curves: Curves) -> Finding | None:
    """In most groups all rewards are the same, so that there is nothing to compare."""
    _, late = ends(curves, "group/equal_fraction")
    if late is None or late.mean < 0.75:
        return None
    return Finding(
        tone="bad",
        title="Most groups teach nothing",
        evidence=f"In {late.mean:.0%} of the groups of the last {late.count} steps all rewards were equal.",
        advice="The prompts are too easy or too hard for this policy: choose others, raise rollout.group_size, or set "
        "algorithm.dynamic_sampling.",
    )


def groups_dropped(curves: Curves) -> Finding | None:
    """Dynamic sampling drops a group a step or more."""
    dropped = curves.get("group/dropped")
    if dropped is None or len(dropped.finite) < MIN_STEPS:
        return None
    mean = fmean(value for _, value in dropped.finite)
    if mean < 1:
        return None
    return Finding(
        tone="note",
        title="Groups are dropped",
        evidence=f"Dynamic sampling dropped {mean:.1f} groups a step, {mean * len(dropped.finite):.0f} in all: the "
        "rewards of each were all equal.",
        advice="Their sampling is paid for and not learned from.",
    )


def no_answers(curves: Curves) -> Finding | None:
    """The verifier finds no answer in more than half of the latest responses."""
    share = status_share(curves, ("no_answer",))
    if share is None or share < 0.5:
        return None
    return Finding(
        tone="bad",
        title="The verifier sees no answers",
        evidence=f"{share:.0%} of the samples of the latest steps held no answer that the verifier recognises.",
        advice="Read some: the prompt may not ask for the form that the reward expects, or responses are cut.",
    )


def verdicts_fail(curves: Curves) -> Finding | None:
    """More than one verdict in a hundred broke: they are left out, not counted as 0."""
    share = status_share(curves, ("timeout", "memory", "error"))
    if share is None or share <= 0.01:
        return None
    return Finding(
        tone="bad",
        title="Verdicts fail",
        evidence=f"{share:.1%} of the samples of the latest steps got none: time, memory or an error of the reward.",
        advice="The reasons stand under Rewards.",
    )


def many_truncated(curves: Curves) -> Finding | None:
    """A quarter of the latest responses is cut by the length limit."""
    _, late = ends(curves, "response/truncated_fraction")
    if late is None or late.mean < 0.25:
        return None
    return Finding(
        tone="bad",
        title="Many responses are cut",
        evidence=f"{late.mean:.0%} of the responses of the last {late.count} steps reached the length limit.",
        advice="Raise rollout.sampling.max_response_tokens, or set algorithm.mask_truncated or overlong_share.",
    )


def length_explodes(curves: Curves) -> Finding | None:
    """Responses have become at least twice as long."""
    early, late = ends(curves, "response/length_mean")
    if early is None or late is None or late.mean < 2 * early.mean:
        return None
    return Finding(
        tone="note",
        title="Responses grow longer",
        evidence=f"response/length_mean went from {early} to {late} tokens.",
    )
