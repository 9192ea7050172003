"""Samples as the page and the terminal show them: chosen, safe to look at, in coloured pieces."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from metrics.text import one_line, visible
from reports.recipe import has_token_advantages
from reports.run_data import RunData
from reports.samples import Change, Sample, best, most_changed, worst
from reports.tokens import Colouring, load_tokenizer, pieces

MAX_PIECES = 400  # of one response on the page
NUM_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPiece:
    """One piece of a response; `classes` name its colour under each colouring."""

    text: str
    classes: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleView:
    """One sample with every text made visible. `facts`: name and value of all else that is shown."""

    id: str
    step: int
    prompt: str
    pieces: tuple[ShownPiece, ...]
    num_missing_pieces: int
    reward: float | None
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeView:
    """One prompt early and late."""

    early: SampleView
    late: SampleView
    early_mean: float
    late_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSamples:
    """The samples of one run that are worth reading; `step` is the newest stored one."""

    label: str
    step: int
    best: tuple[SampleView, ...]
    worst: tuple[SampleView, ...]
    changed: tuple[ChangeView, ...]
    has_tokens: bool
    has_token_advantages: bool


def run_samples(run: RunData) -> RunSamples | None:
    """Best and worst samples of the newest stored step, and the prompts that changed most; None without any."""
    stored = run.stored_steps()
    if not stored:
        return None
    tokenizer = load_tokenizer(run)
    step, path = next(reversed(stored.items()))
    return RunSamples(
        label=run.label,
        step=step,
        best=tuple(sample_view(sample, tokenizer) for sample in best(path, NUM_SHOWN)),
        worst=tuple(sample_view(sample, tokenizer) for sample in worst(path, NUM_SHOWN)),
        changed=tuple(_change_view(change, tokenizer) for change in most_changed(run, NUM_SHOWN)),
        has_tokens=tokenizer is not None,
        has_token_advantages=has_token_advantages(run.recipe),
    )


def sample_view(sample: Sample, tokenizer: Tokenizer | None) -> SampleView:
    """The sample for the page."""
    cut = pieces(sample, tokenizer)
    return SampleView(
        id=sample.id,
        step=sample.step,
        prompt=visible(sample.prompt),
        pieces=tuple(
            ShownPiece(text=visible(piece.text), classes=_classes(piece.levels), note=piece.note)
            for piece in cut[:MAX_PIECES]
        ),
        num_missing_pieces=max(0, len(cut) - MAX_PIECES),
        reward=sample.reward,
        facts=tuple(facts(sample)),
    )


def facts(sample: Sample) -> Sequence[tuple[str, str]]:
    """Everything about a sample besides its texts, as names and values."""
    reward = "none: not scored" if sample.reward is None else f"{sample.reward:.6g}"
    parts = ", ".join(f"{one_line(name)} {value:.6g}" for name, value in sample.parts.items())
    advantage = "none: not trained on" if sample.advantage is None else f"{sample.advantage:.4g}"
    versions = f"{sample.min_version}" + (
        "" if sample.min_version == sample.max_version else f" to {sample.max_version}"
    )
    return [
        ("reward", reward + (f" ({parts})" if parts else "")),
        ("verdict", sample.status + (f": {one_line(sample.detail)}" if sample.detail else "")),
        ("advantage", advantage),
        ("gold answer", "none" if sample.answer is None else one_line(sample.answer)),
        ("tokens", f"{len(sample.tokens)}, ended by {sample.finish_reason}"),
        ("policy version", f"{versions}, staleness {sample.staleness}"),
        ("worker", one_line(sample.worker)),
    ]


def _change_view(change: Change, tokenizer: Tokenizer | None) -> ChangeView:
    return ChangeView(
        early=sample_view(change.early, tokenizer),
        late=sample_view(change.late, tokenizer),
        early_mean=change.early_mean,
        late_mean=change.late_mean,
    )


def _classes(levels: dict[Colouring, int]) -> str:
    """`logprob-m3 ratio-p1`: minus and plus by colouring, nothing where there is no colour."""
    signs = {colouring: "m" if level < 0 else "p" for colouring, level in levels.items()}
    return " ".join(f"{name.value}-{signs[name]}{abs(level)}" for name, level in levels.items() if level)
