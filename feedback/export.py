"""Judgements as comparisons, in the form that reward models and DPO learn from."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from experience.parquet import write_parquet
from feedback.journal import Judgement
from feedback.pairs import Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """`num_rows` pairs say something; `num_undecided` were judged and say nothing: ties, both bad, or even votes."""

    num_rows: int
    num_undecided: int


def export_comparisons(pairs: Sequence[Pair], judgements: Sequence[Judgement], path: Path) -> Exported:
    """Write a Parquet file of columns prompt, responses, ratings, num_judgements.

    A response's rating is its share of the votes: a tie is half a vote for each, "both bad" is none for either.
    ValueError when no pair was decided.
    """
    votes: defaultdict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        votes[judgement.pair].append(judgement)
    judged = [(pair, votes[pair.id]) for pair in pairs if votes[pair.id]]
    rows = [
        {
            "prompt": pair.prompt,
            "responses": list(pair.responses),
            "ratings": ratings,
            "num_judgements": len(given),
        }
        for pair, given in judged
        if (ratings := _ratings(given))[0] != ratings[1]
    ]
    if not rows:
        raise ValueError(f"{path}: nothing to export; none of the {len(judged)} judged pairs has a better response")
    if any(isinstance(row["prompt"], list) for row in rows):
        rows = [{**row, "prompt": _messages(row["prompt"])} for row in rows]
    write_parquet(pa.Table.from_pylist(rows), path)
    return Exported(num_rows=len(rows), num_undecided=len(judged) - len(rows))


def _ratings(judgements: Sequence[Judgement]) -> list[float]:
    """[2] shares of the votes."""
    shares = [0.0, 0.0]
    for judgement in judgements:
        if judgement.preferred is not None:
            shares[judgement.preferred] += 1
        elif judgement.choice == "tie":
            shares = [share + 0.5 for share in shares]
    return [share / len(judgements) for share in shares]


def _messages(prompt: str | list[dict[str, str]]) -> list[dict[str, str]]:
    """A column holds one kind of prompt: texts become messages where there are any."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
