"""A response token by token, each with what is stored of it and how strongly that is to be coloured."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tokenizers import Tokenizer

from reports.run_data import RunData
from reports.samples import Sample

STRONGEST = 4
_LOGPROB_STEPS = (-0.1, -0.7, -2.0, -4.0)  # probability 0.9, 0.5, 0.14, 0.02
_RATIO_STEPS = (0.01, 0.05, 0.2, 0.5)  # |log ratio|


class Colouring(StrEnum):
    """What the colour of a token stands for."""

    ADVANTAGE = "advantage"  # of the sample; advantages of single tokens (a critic's) stay on the ranks
    LOGPROB = "logprob"  # the engine's
    RATIO = "ratio"  # the trainer's before the update over the engine's
    VERSION = "version"  # how much older than the newest version of this response


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Text of one token, or of several that only together make a character. `levels`: -4 to 4 by colouring."""

    text: str
    levels: dict[Colouring, int]
    note: str


def load_tokenizer(run: RunData) -> Tokenizer | None:
    """The tokenizer that the run's tokens belong to; None where none of the known places has its tokenizer.json."""
    model = run.recipe.get("model") or {}
    places = [run.folder / "tokenizer", run.folder / "export", *([Path(model["path"])] if model.get("path") else [])]
    files = [place / "tokenizer.json" for place in places]
    found = next((file for file in files if file.is_file()), None)
    return None if found is None else Tokenizer.from_file(str(found))


def pieces(sample: Sample, tokenizer: Tokenizer | None) -> list[Piece]:
    """The response in pieces; one piece for all of it where its tokens can't be told apart."""
    if tokenizer is not None and _fits(sample, tokenizer):
        return [_piece(sample, text, places) for text, places in _texts(sample.tokens, tokenizer)]
    levels = {Colouring.ADVANTAGE: _signed(sample.advantage or 0.0)}
    return [Piece(text=sample.response, levels=levels, note="")]


def check_colouring(sample: Sample, colouring: Colouring, tokenizer: Tokenizer | None) -> None:
    """ValueError where what is stored does not allow this colouring."""
    if colouring is Colouring.RATIO and sample.old_logprobs is None:
        raise ValueError(
            "--color ratio: the trainer's log-probs of this step were not stored (they stay on the ranks); "
            "choose one of advantage, logprob, version"
        )
    if colouring is not Colouring.ADVANTAGE and (tokenizer is None or not _fits(sample, tokenizer)):
        reason = "no tokenizer.json in" if tokenizer is None else "another text comes of the tokenizer.json in"
        raise ValueError(
            f"--color {colouring}: the tokens can't be told apart: {reason} the run's tokenizer/ or export/, or "
            "model.path; choose advantage"
        )


def _fits(sample: Sample, tokenizer: Tokenizer) -> bool:
    """Whether the tokens give the stored text: another model's tokenizer would show another response."""
    return tokenizer.decode(list(sample.tokens), skip_special_tokens=True) == sample.response


def _texts(tokens: Sequence[int], tokenizer: Tokenizer) -> Iterator[tuple[str, range]]:
    """The text that each token adds, decoded behind the piece before it, since decoders treat a start otherwise."""
    start = read = 0
    for end in range(1, len(tokens) + 1):
        before = tokenizer.decode(list(tokens[start:read]), skip_special_tokens=False)
        text = tokenizer.decode(list(tokens[start:end]), skip_special_tokens=False)
        if text.endswith("\N{REPLACEMENT CHARACTER}") and end < len(tokens):
            continue  # the first bytes of a character
        yield text[len(before) :], range(read, end)
        start, read = read, end


def _piece(sample: Sample, text: str, places: range) -> Piece:
    """The text of the tokens at `places`; the least likely of them decides its colour."""
    sampled = [place for place in places if sample.mask[place]]
    if not sampled:
        return Piece(text=text, levels={}, note="not sampled by the policy")
    place = min(sampled, key=lambda place: sample.rollout_logprobs[place])
    logprob, version = sample.rollout_logprobs[place], sample.versions[place]
    levels = {
        Colouring.ADVANTAGE: _signed(sample.advantage or 0.0),
        Colouring.LOGPROB: -sum(logprob < step for step in _LOGPROB_STEPS),
        Colouring.VERSION: -min(sample.max_version - version, STRONGEST),
    }
    note = f"log-prob {logprob:.4g}, version {version}"
    if sample.old_logprobs is not None:
        difference = sample.old_logprobs[place] - logprob
        size = sum(abs(difference) > step for step in _RATIO_STEPS)
        levels[Colouring.RATIO] = size if difference > 0 else -size
        note += f", ratio {math.exp(min(difference, 700.0)):.4g}"
    return Piece(text=text, levels=levels, note=note)


def _signed(advantage: float) -> int:
    """The sign, and the size in quarters of 1: advantages of a group are in units of its deviation or of a reward."""
    size = min(STRONGEST, math.ceil(abs(advantage) * STRONGEST))
    return size if advantage > 0 else -size
