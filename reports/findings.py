"""What stands out in a run: all rules in order, and what they say of its curves."""

from collections.abc import Callable

from reports import fleet_rules as fleet
from reports import policy_rules as policy
from reports import signal_rules as signal
from reports.curves import Curves, Finding, Tone

RULES: tuple[Callable[[Curves], Finding | None], ...] = (
    policy.not_finite,
    policy.updates_skipped,
    signal.verdicts_fail,
    signal.no_answers,
    signal.groups_equal,
    signal.reward_flat,
    signal.reward_falls,
    signal.held_out_moves,
    signal.over_optimised,
    policy.held_out_loss_turns,
    policy.entropy_collapse,
    policy.kl_runs_away,
    policy.mismatch_grows,
    policy.much_clipped,
    signal.many_truncated,
    policy.critic_is_blind,
    signal.groups_dropped,
    signal.length_explodes,
    policy.one_phase_takes_the_time,
    fleet.workers_slow,
    fleet.workers_idle,
    fleet.workers_replaced,
    signal.reward_rises,
)


def findings(curves: Curves) -> list[Finding]:
    """What the rules say of a run, bad news first."""
    found = [finding for rule in RULES if (finding := rule(curves)) is not None]
    order: dict[Tone, int] = {"bad": 0, "note": 1, "good": 2}
    return sorted(found, key=lambda finding: order[finding.tone])
