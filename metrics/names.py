"""Every metric by name: its unit, what it means, and what its value of a step is made of."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal


class Reduction(StrEnum):
    """What the value of a step is, of all samples, tokens, updates and ranks concerned."""

    MEAN = "mean"
    SUM = "sum"
    MAX = "max"
    LAST = "last"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the table. A name that ends in `<...>` stands for a family, such as `reward/<part>`."""

    name: str
    unit: str
    meaning: str
    reduction: Reduction


# Where a step's time goes; phases may overlap when generation runs beside training.
PHASES: Final[Mapping[str, str]] = {
    "generate": "waiting for responses",
    "score": "waiting for verdicts after the last response",
    "data": "waiting for the next batch (supervised training)",
    "logprobs": "reference, critic and old log-probs, of what was not scored while others were sampled",
    "train": "updating the weights",
    "sync": "giving the new weights to the rollout workers",
    "evaluate": "held-out evaluation",
    "save": "writing checkpoints",
}


def _rows(unit: str, reduction: Reduction, meanings: Mapping[str, str]) -> Iterable[Metric]:
    for name, meaning in meanings.items():
        yield Metric(name=name, unit=unit, meaning=meaning, reduction=reduction)


def _with_ends(name: str, meaning: str) -> dict[str, str]:
    """A mean over prompts and the ends of its interval."""
    ends = {f"{name}_{side}": f"{end} end of its 95 % interval" for side, end in (("low", "lower"), ("high", "upper"))}
    return {name: meaning, **ends}


_GUARD_REWARDS: Final = {
    **_with_ends("guard/proxy", "the trained reward of the guard's held-out responses"),
    **_with_ends("guard/gold", "their gold score"),
    **_with_ends("guard/proxy_since_best", "the proxy's change since the best look before, over the same prompts"),
    **_with_ends("guard/gold_since_best", "the gold score's change since the best look before, over the same prompts"),
}
_GUARD_GAINS: Final = {
    **_with_ends("guard/proxy_gain", "the proxy's change since the first look, in its standard deviations then"),
    **_with_ends("guard/gold_gain", "the gold score's change since the first look, in its standard deviations then"),
    **_with_ends("guard/gap", "guard/proxy_gain less guard/gold_gain"),
}

_ROWS: Final[tuple[Metric, ...]] = (
    *_rows(
        "reward",
        Reduction.MEAN,
        {
            "reward/mean": "weighted sum of all rewards, mean over scored samples",
            "reward/std": "its standard deviation over the samples of the step",
            "reward/<part>": "one reward of the recipe before its weight, mean over samples",
            "eval/reward_mean": "mean reward on held-out prompts",
            "eval/reward_square_mean": "mean of its square",
            "eval/reward_std": "its standard deviation over held-out responses",
            "preference/chosen_reward": "reward of the chosen response of a pair",
            "preference/rejected_reward": "reward of the rejected response of a pair",
            "preference/reward_difference": "reward of the chosen minus that of the rejected response",
            "eval/preference_chosen_reward": "reward of the chosen response of a held-out pair",
            "eval/preference_rejected_reward": "reward of the rejected response of a held-out pair",
            "eval/preference_reward_difference": "the difference of the two",
        },
    ),
    *_rows("reward", Reduction.MEAN, _GUARD_REWARDS),
    *_rows("deviations", Reduction.MEAN, _GUARD_GAINS),
    *_rows(
        "nats", Reduction.MEAN, _with_ends("guard/kl", "KL divergence of a held-out response from the reference (k3)")
    ),
    *_rows(
        "tokens", Reduction.MEAN, _with_ends("guard/length_drift", "length of a held-out response since the first look")
    ),
    *_rows(
        "share",
        Reduction.MEAN,
        _with_ends("guard/repetition_drift", "share of repeated 3-grams in a held-out response since the first look"),
    ),
    *_rows(
        "steps",
        Reduction.LAST,
        {"guard/best_step": "step of the best look: more gold than the one before, beyond noise"},
    ),
    *_rows("looks", Reduction.LAST, {"guard/looks_below": "over-optimised looks in a row"}),
    *_rows("actions", Reduction.LAST, {"guard/actions": "what the guard has done so far"}),
    *_rows(
        "samples",
        Reduction.SUM,
        {"score/<status>": "samples whose verdict came about in this way (ok, timeout, error ...)"},
    ),
    *_rows(
        "tokens",
        Reduction.MEAN,
        {
            "response/length_mean": "mean length of a response",
            "eval/response_length_mean": "mean length of a held-out response",
        },
    ),
    *_rows("tokens", Reduction.MAX, {"response/length_max": "longest response"}),
    *_rows("tokens", Reduction.SUM, {"response/tokens": "all sampled tokens of the step"}),
    *_rows(
        "share",
        Reduction.MEAN,
        {
            "response/truncated_fraction": "responses cut by the length limit",
            "group/equal_fraction": "groups whose rewards are all equal and teach nothing",
            "policy/clip_fraction_low": "response tokens whose ratio is below the clip range",
            "policy/clip_fraction_high": "response tokens whose ratio is above the clip range",
            "mismatch/masked_fraction": "response tokens that the rollout correction leaves out",
            "value/clip_fraction": "response tokens whose new value is outside the clip range",
            "value/explained_variance": "part of the returns' variance that the critic's values explain; at most 1",
            "eval/accuracy": "held-out prompts answered right",
            "eval/accuracy_low": "lower end of the 95 % Wilson interval of the accuracy",
            "eval/accuracy_high": "upper end of the 95 % Wilson interval of the accuracy",
            "eval/pass_at_k": "held-out prompts that at least one of k samples answers right, unbiased estimate",
            "preference/accuracy": "pairs in which the chosen response is rated above the rejected one",
            "preference/brier": "squared distance of the predicted preference from the one that was made",
            "preference/calibration_error": "distance of predicted from actual preferences, bin by bin",
            "eval/preference_accuracy": "held-out pairs in which the chosen response is rated above the rejected one",
            "eval/preference_accuracy_low": "lower end of its 95 % interval, with a prompt's pairs as one cluster",
            "eval/preference_accuracy_high": "upper end of its 95 % interval, with a prompt's pairs as one cluster",
            "eval/preference_brier": "the Brier score of held-out preferences",
            "eval/preference_calibration_error": "the calibration error of held-out preferences",
        },
    ),
    *_rows("groups", Reduction.SUM, {"group/dropped": "groups dropped and replaced by dynamic sampling"}),
    *_rows(
        "nats",
        Reduction.MEAN,
        {
            "policy/entropy": "entropy of the next-token distribution, mean over response tokens",
            "policy/kl_old": "KL divergence from the policy before the update (k3), mean over response tokens",
            "policy/kl_ref": "KL divergence from the reference policy, mean over response tokens",
            "mismatch/mean_abs": "|trainer's minus engine's log-prob|, mean over response tokens",
            "mismatch/kl": "KL divergence of the engine from the trainer (k3), mean over response tokens",
            "supervised/loss": "cross-entropy, mean over the tokens that count",
            "mixed/loss": "cross-entropy on the pre-training text that is mixed in",
            "eval/loss": "cross-entropy on held-out text",
            "preference/loss": "-log of the predicted probability of a preference, without margin and smoothing",
            "preference/drift": "|policy's minus reference's log-prob|, mean over response tokens (DPO)",
            "eval/preference_loss": "-log of the predicted probability of a held-out preference",
        },
    ),
    *_rows("nats", Reduction.MAX, {"mismatch/max_abs": "largest |trainer's minus engine's log-prob|"}),
    *_rows(
        "",
        Reduction.MEAN,
        {
            "policy/loss": "the objective that is minimised, penalties and bonuses included",
            "policy/ratio_mean": "importance ratio, mean over response tokens",
            "policy/kl_coef": "weight of the KL penalty",
            "mismatch/weight_mean": "correction weight, mean over response tokens",
            "value/loss": "value loss of the critic",
            "value/return_mean": "return, mean over response tokens",
            "optimizer/grad_norm": "norm of the gradient before clipping",
            "critic/grad_norm": "norm of the critic's gradient before clipping",
            "supervised/perplexity": "exp of the cross-entropy",
            "eval/perplexity": "exp of the held-out cross-entropy",
        },
    ),
    *_rows("", Reduction.MAX, {"policy/ratio_max": "largest importance ratio of a response token"}),
    *_rows(
        "",
        Reduction.LAST,
        {
            "optimizer/learning_rate": "learning rate of the last update",
            "critic/learning_rate": "that of the critic",
        },
    ),
    *_rows(
        "updates",
        Reduction.SUM,
        {
            "optimizer/skipped_steps": "updates skipped for a non-finite loss or gradient",
            "critic/skipped_steps": "updates of the critic skipped for a non-finite loss or gradient",
        },
    ),
    *_rows("versions", Reduction.MEAN, {"staleness/mean": "policy versions between sampling and training"}),
    *_rows("versions", Reduction.MAX, {"staleness/max": "the same, of the stalest sample"}),
    *_rows(
        "seconds",
        Reduction.MAX,
        {
            "time/step": "wall-clock time of the step",
            "time/update": "forward, backward and optimiser on the slowest rank; a part of time/train",
            **{f"time/{phase}": meaning for phase, meaning in PHASES.items()},
            "time/turns": "ranks and engines giving each other their GPUs; a part of time/train and time/sync",
            "time/other": "time of the step that no phase covers",
        },
    ),
    *_rows(
        "share",
        Reduction.MAX,
        {f"share/{phase}": f"part of the step's time: {meaning}" for phase, meaning in PHASES.items()},
    ),
    *_rows("share", Reduction.MAX, {"share/other": "part of the step's time that no phase covers"}),
    *_rows(
        "workers",
        Reduction.LAST,
        {
            "rollout/workers": "rollout workers that have an engine",
            "rollout/slow_workers": "those whose engine is slower than the others' (rollout.slow_worker_factor)",
        },
    ),
    *_rows("processes", Reduction.SUM, {"rollout/restarts": "rollout workers replaced since the start"}),
    *_rows("groups", Reduction.SUM, {"rollout/backup_leases": "groups of slow workers given to others too"}),
    *_rows(
        "tokens/s",
        Reduction.SUM,
        {
            "rollout/tokens_per_second": "response tokens that all rollout workers sample a second of the step",
            "speed/<worker>": "response tokens that one worker samples a second of the step",
        },
    ),
    *_rows(
        "share",
        Reduction.MEAN,
        {
            "rollout/idle_fraction": "part of the step in which a worker has nothing to sample, mean over workers",
            "idle/<worker>": "the same of one worker",
        },
    ),
    *_rows("", Reduction.MAX, {"slowness/<worker>": "times as slow as the other workers; 1 unless it is slow"}),
    *_rows("tokens/s", Reduction.SUM, {"throughput/tokens_per_second": "prompt and response tokens trained a second"}),
    *_rows(
        "TFLOP/s",
        Reduction.MEAN,
        {"throughput/tflops_per_rank": "work of training a second and rank: updates and scoring passes, by model size"},
    ),
    *_rows(
        "share",
        Reduction.MEAN,
        {
            "throughput/mfu": "model FLOPs utilisation: throughput/tflops_per_rank of what the device can do at best",
            "throughput/scored_ahead": "groups that reference, critic and old policy scored while others were sampled",
        },
    ),
    *_rows("sequences/s", Reduction.SUM, {"throughput/sequences_per_second": "sequences trained a second"}),
    *_rows(
        "GiB",
        Reduction.MAX,
        {
            "memory/host_peak": "largest resident memory of a process so far",
            "memory/device_allocated": "device memory that tensors hold, peak of the step",
            "memory/device_reserved": "device memory taken from the driver, peak of the step",
        },
    ),
)

# Spaces of metrics that say how fast and on what machines a run went, and nothing of what it computed.
PASSING: Final = ("time/", "share/", "throughput/", "memory/", "rollout/", "idle/", "speed/", "slowness/")

TABLE: Final[Mapping[str, Metric]] = {row.name: row for row in _ROWS}
_FAMILIES = {name.partition("<")[0]: row for name, row in TABLE.items() if "<" in name}


# Held-out metrics that a checkpoint can be judged by.
BETTER: Final[Mapping[str, Literal["higher", "lower"]]] = {
    "eval/accuracy": "higher",
    "eval/pass_at_k": "higher",
    "eval/reward_mean": "higher",
    "guard/gold": "higher",
    "eval/loss": "lower",
    "eval/perplexity": "lower",
    "eval/preference_accuracy": "higher",
    "eval/preference_loss": "lower",
    "eval/preference_brier": "lower",
    "eval/preference_calibration_error": "lower",
}


def metric(name: str) -> Metric:
    """The row of `name`. ValueError when the table has none: a name is written down before it is used."""
    row = TABLE.get(name)
    if row is None and re.fullmatch(r"[a-z]+/[^\s<>]+", name):
        row = _FAMILIES.get(name.partition("/")[0] + "/")
    if row is None:
        near = difflib.get_close_matches(name, TABLE, n=3)
        raise ValueError(f"metric {name!r} is not in metrics/names.py; near: {', '.join(near) or 'none'}")
    return row
