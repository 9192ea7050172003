"""The table of algorithms, one row each, and the row that a run's config resolves to. No torch."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from algorithms.algorithm import Algorithm
from algorithms.plugins import is_path, load_attribute
from configs.schema.algorithm import AlgorithmConfig

logger = logging.getLogger(__name__)

_ROWS = (
    Algorithm(
        name="ppo",
        paper="arXiv:1707.06347; KL in the reward as in InstructGPT, arXiv:2203.02155",
        advantage="gae",
        whiten=True,
        gae_lambda=0.95,
        loss="clip",
        clip_low=0.2,
        clip_high=0.2,
        aggregation="token_mean",
        kl_coef=0.02,
        kl_estimator="k1",
        kl_place="reward",
        value_clip=0.2,
    ),
    Algorithm(
        name="grpo",
        paper="DeepSeekMath, arXiv:2402.03300",
        advantage="grpo",
        loss="clip",
        clip_low=0.2,
        clip_high=0.2,
        aggregation="seq_mean_token_mean",
        kl_coef=0.04,
    ),
    Algorithm(
        name="dr_grpo",
        paper="Understanding R1-Zero-like training, arXiv:2503.20783",
        advantage="dr_grpo",
        loss="clip",
        clip_low=0.2,
        clip_high=0.2,
        aggregation="seq_mean_token_sum_norm",
    ),
    Algorithm(
        name="rloo",
        paper="Back to basics, arXiv:2402.14740",
        advantage="rloo",
        loss="reinforce",
        aggregation="seq_mean_token_sum",
    ),
    Algorithm(
        name="reinforce",
        paper="Williams 1992, doi:10.1007/BF00992696",
        advantage="reinforce",
        baseline_decay=0.9,
        loss="reinforce",
        aggregation="seq_mean_token_sum",
    ),
    Algorithm(
        name="reinforce_pp",
        paper="REINFORCE++, arXiv:2501.03262",
        advantage="reinforce_pp",
        whiten=True,
        loss="clip",
        clip_low=0.2,
        clip_high=0.2,
        aggregation="token_mean",
        kl_coef=0.01,
        kl_estimator="k1",
        kl_place="reward",
    ),
    Algorithm(
        name="reinforce_pp_baseline",
        paper="REINFORCE++, arXiv:2501.03262",
        advantage="reinforce_pp_baseline",
        whiten=True,
        loss="clip",
        clip_low=0.2,
        clip_high=0.2,
        aggregation="token_mean",
        kl_coef=0.001,
        kl_estimator="k2",
    ),
    Algorithm(
        name="remax",
        paper="ReMax, arXiv:2310.10505",
        advantage="remax",
        loss="reinforce",
        aggregation="seq_mean_token_sum",
    ),
    Algorithm(
        name="dapo",
        paper="DAPO, arXiv:2503.14476",
        advantage="grpo",
        loss="clip",
        clip_low=0.2,
        clip_high=0.28,
        aggregation="token_mean",
        dynamic_sampling=True,
        overlong_share=0.2,  # 4096 of 20480 tokens in the paper
    ),
    Algorithm(
        name="gspo",
        paper="GSPO, arXiv:2507.18071",
        advantage="grpo",
        loss="clip",
        ratio_level="sequence",
        clip_low=3e-4,
        clip_high=4e-4,
        aggregation="seq_mean_token_mean",
    ),
    Algorithm(
        name="cispo",
        paper="MiniMax-M1, arXiv:2506.13585",
        advantage="grpo",
        loss="cispo",
        clip_low=1.0,  # as in the paper, no bound below: a ratio is never under 0
        clip_high=4.0,  # our choice; the paper gives no number
        aggregation="token_mean",
    ),
)
ALGORITHMS = {row.name: row for row in _ROWS}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Effect:
    """Columns that only count when `holds`; overriding them otherwise is refused with `reason`."""

    columns: tuple[str, ...]
    holds: Callable[[Algorithm], bool]
    reason: str


_EFFECTS = (
    _Effect(
        columns=("clip_low", "clip_high"),
        holds=lambda row: row.loss_traits.clips,
        reason="loss={row.loss!r} does not clip; set loss: clip or cispo",
    ),
    _Effect(
        columns=("dual_clip",),
        holds=lambda row: row.loss_traits.has_dual_clip,
        reason="loss={row.loss!r} has no dual clip; set loss: clip",
    ),
    _Effect(
        columns=("ratio_level",),
        holds=lambda row: row.loss_traits.uses_ratio,
        reason="loss={row.loss!r} uses no ratio; set loss: clip or cispo",
    ),
    _Effect(
        columns=("gamma",),
        holds=lambda row: row.estimator_traits.has_token_rewards or row.estimator_traits.may_have_token_rewards,
        reason="advantage={row.advantage!r} discounts nothing; set advantage: gae, reinforce or reinforce_pp",
    ),
    _Effect(
        columns=("gae_lambda", "value_clip", "critic_warmup_steps"),
        holds=lambda row: row.needs_critic,
        reason="advantage={row.advantage!r} has no critic; set advantage: gae",
    ),
    _Effect(
        columns=("baseline_decay",),
        holds=lambda row: row.estimator_traits.has_moving_baseline,
        reason="advantage={row.advantage!r} has no moving average; set advantage: reinforce",
    ),
    _Effect(
        columns=("kl_estimator", "kl_place", "kl_target", "kl_horizon", "reference_refresh_steps"),
        holds=lambda row: row.needs_reference,
        reason="kl_coef=0 uses no reference; set kl_coef above 0",
    ),
    _Effect(
        columns=("kl_horizon",),
        holds=lambda row: row.kl_target > 0,
        reason="kl_coef is fixed; set kl_target above 0",
    ),
    _Effect(
        columns=("correction_high",),
        holds=lambda row: row.correction != "none",
        reason="correction='none' has no bounds; set correction: tis, mis, icepop ...",
    ),
    _Effect(
        columns=("correction_low",),
        holds=lambda row: row.rollout_correction.mask != "none",
        reason="correction={row.correction!r} masks nothing; set correction: mis, icepop ...",
    ),
    _Effect(
        columns=("dynamic_sampling_limit",),
        holds=lambda row: row.dynamic_sampling,
        reason="dynamic_sampling is off; set dynamic_sampling: true",
    ),
)


def resolve(config: AlgorithmConfig) -> Algorithm:
    """The row that `config` names, with its overrides; ValueError where they can't go together."""
    overrides = config.overrides()
    row = replace(find_row(config.name), **overrides)  # pyright: ignore[reportArgumentType]
    for effect in _EFFECTS:
        idle = [column for column in effect.columns if column in overrides]
        if idle and not effect.holds(row):
            raise ValueError(f"algorithm.{idle[0]} has no effect: {effect.reason.format(row=row)}")
    if row.has_kl_in_loss and row.kl_estimator == "k1" and config.updates_per_batch == 1:
        logger.warning(
            "algorithm.kl_estimator='k1' in the loss has zero expected gradient on on-policy samples; "
            "k2 has that of the reverse KL"
        )
    return _without_idle_columns(row)


def find_row(name: str) -> Algorithm:
    """The row called `name`, ours or a user's ("file.py:row")."""
    if not is_path(name):
        if name not in ALGORITHMS:
            choices = ", ".join(sorted(ALGORITHMS))
            raise ValueError(f"algorithm.name={name!r}: unknown; choose one of {choices}, or path/to/file.py:row")
        return ALGORITHMS[name]
    row = load_attribute("algorithm.name", name)
    if not isinstance(row, Algorithm):
        raise ValueError(
            f"algorithm.name={name!r}: is a {type(row).__name__}; it must be an algorithms.algorithm.Algorithm"
        )
    return row


def check_group_size(row: Algorithm, group_size: int) -> None:
    """ValueError when a prompt gets too few samples for this row."""
    if group_size < row.min_group_size:
        raise ValueError(
            f"rollout.group_size={group_size}: advantage={row.advantage!r} compares the samples of a prompt; "
            f"set it to {row.min_group_size} or more"
        )


def describe(row: Algorithm) -> dict[str, object]:
    """Every column with its value, for the resolved config."""
    return asdict(row)


def _without_idle_columns(row: Algorithm) -> Algorithm:
    """The row without what it inherited for a loss that an override replaced."""
    if not row.loss_traits.clips:
        row = replace(row, clip_low=None, clip_high=None)
    return row if row.loss_traits.has_dual_clip else replace(row, dual_clip=0.0)
