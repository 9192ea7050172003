"""Several verdicts on one sample, made into its reward: normalise, clip, gate, weigh, veto."""

from collections.abc import Mapping, Sequence

from configs.schema.rewards import RewardSpec
from rewards.contract import Score, Status


def compose(specs: Sequence[RewardSpec], verdicts: Mapping[str, Score]) -> Score:
    """The weighted sum over the rewards that judged the sample, each of them in `parts` (before its weight).

    `verdicts` holds, by label, the rewards that were asked. A failed one leaves the sample unscored; one that
    abstains is left out of the sum, and where all abstain the sample is unscored.
    """
    failed = {name: score for name, score in verdicts.items() if score.status.is_failure}
    values = {spec.label: _shaped(spec, verdicts[spec.label]) for spec in specs if _has_value(verdicts, spec.label)}
    parts = dict(values)
    for name, score in verdicts.items():
        parts |= {f"{name}/{part}": value for part, value in score.parts.items()}
    if failed:
        name, score = next(iter(failed.items()))
        return Score(value=None, status=score.status, detail=f"{name}: {score.detail}", parts=parts)
    if not values:
        return Score(value=None, status=Status.ABSTAIN, detail="no reward judged this sample", parts=parts)
    status, detail = _explanation(verdicts)
    for spec in specs:
        if spec.veto_below is not None and spec.label in values and _raw(verdicts[spec.label]) < spec.veto_below:
            return Score(value=spec.veto_reward, status=status, detail=f"vetoed by {spec.label}", parts=parts)
    total = sum(spec.weight * _gated(spec, values) for spec in specs if spec.label in values)
    return Score(value=total, status=status, detail=detail, parts=parts)


def _has_value(verdicts: Mapping[str, Score], name: str) -> bool:
    return name in verdicts and verdicts[name].value is not None


def _raw(score: Score) -> float:
    assert score.value is not None
    return score.value


def _shaped(spec: RewardSpec, score: Score) -> float:
    value = (_raw(score) - spec.mean) / spec.std
    return value if spec.clip is None else min(max(value, spec.clip[0]), spec.clip[1])


def _gated(spec: RewardSpec, values: Mapping[str, float]) -> float:
    """The value times its gate's; a gate that abstained is shut."""
    return values[spec.label] * (1.0 if spec.times is None else values.get(spec.times, 0.0))


def _explanation(verdicts: Mapping[str, Score]) -> tuple[Status, str]:
    """The first status that says more than OK, among those with a value."""
    for name, score in verdicts.items():
        if score.status in (Status.NO_ANSWER, Status.REFUSED):
            return score.status, f"{name}: {score.detail}"
    return Status.OK, "; ".join(score.detail for score in verdicts.values() if score.detail)
