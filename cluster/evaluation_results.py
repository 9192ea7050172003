"""An evaluation's results: as one JSON document, and every response as a row of a Parquet file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.evaluate import ModelAnswers
from cluster.evaluation_inputs import EvaluationRequest
from experience.parquet import write_parquet
from metrics.whole_file import whole_file
from trainers.benchmark import Measured, Responses
from trainers.scorecard import Card, Comparison, Estimate, card, compare, estimates, numbers

RESULTS, ANSWERS = "results.json", "answers.parquet"
_SCHEMA = pa.schema(
    [
        pa.field(name, kind, metadata={"meaning": meaning})
        for name, kind, meaning in (
            ("model", pa.string(), "the model's folder, as given"),
            ("data", pa.string(), "the data set, as given"),
            ("prompt_id", pa.string(), "the row's `id`; its place in the data set where it has none"),
            ("kind", pa.string(), "greedy, sampled or beam"),
            ("sample_index", pa.int32(), "which response to the prompt"),
            ("prompt", pa.string(), "as the model read it"),
            ("gold", pa.string(), "gold answer"),
            ("response", pa.string(), "the response, decoded"),
            ("answer", pa.string(), "what the response marks as its answer; null: nothing, or nothing says where"),
            ("vote", pa.int32(), "answers of a prompt with the same number are the same answer"),
            ("is_right", pa.bool_(), "whether the reward took it for right"),
            ("reward", pa.float64(), "the weighted sum of all rewards; null: the verdict failed"),
            ("status", pa.string(), "how the verdict came about"),
            ("score", pa.float64(), "the reward model's; null: none was asked, or it failed"),
            ("finish_reason", pa.string(), "stop, or length where it was cut"),
            ("num_tokens", pa.int32(), "of the response"),
        )
    ]
)


def results(request: EvaluationRequest, models: Sequence[ModelAnswers]) -> dict[str, Any]:
    """Every number with its interval, for each data set and their mean, and how two models compare."""
    cards = [[card(measured) for measured in model.sets] for model in models]
    document: dict[str, Any] = {
        "settings": _settings(request),
        "models": [_model(model, own, request.seed) for model, own in zip(models, cards, strict=True)],
    }
    if len(cards) == 2:
        document["comparison"] = _comparisons(cards[0], cards[1], request.seed)
    return document


def write_results(folder: Path, document: Mapping[str, Any], models: Sequence[ModelAnswers]) -> None:
    """`results.json` and `answers.parquet`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(pa.Table.from_pylist(list(_rows(models)), schema=_SCHEMA), folder / ANSWERS)
    with whole_file(folder / RESULTS) as draft:
        draft.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _settings(request: EvaluationRequest) -> dict[str, Any]:
    sampling = request.rollout.sampling
    return {
        "samples": request.num_samples,
        "beam_width": request.beam_width,
        "temperature": sampling.temperature,
        "max_response_tokens": sampling.max_response_tokens,
        "reward": request.rewards[0].use,
        "marker": request.marker,
        "reward_model": request.reward_model,
        "seed": request.seed,
    }


def _model(model: ModelAnswers, cards: Sequence[Card], seed: int) -> dict[str, Any]:
    sets = zip(model.sets, cards, strict=True)
    return {
        "path": model.path,
        "weights": model.checksum,
        "data": {measured.name: _set(measured, found, seed) for measured, found in sets},
        "mean": _plain(estimates(cards, seed) if len(cards) > 1 else numbers(cards[0], seed)),
    }


def _set(measured: Measured, found: Card, seed: int) -> dict[str, Any]:
    """A data set's numbers, and what they don't show: `unjudged` verdicts failed and count as wrong."""
    rows = [
        row
        for part in measured.parts.values()
        for row in zip(part.answers.trajectories, part.answers.scores, strict=True)
    ]
    trajectories = [trajectory for several, _ in rows for trajectory in several]
    scores = [part.scores for part in measured.parts.values() if part.scores is not None]
    return {
        "prompts": found.num_prompts,
        "responses": len(trajectories),
        "cut": sum(trajectory.is_truncated for trajectory in trajectories),
        "unjudged": sum(score.status.is_failure for _, several in rows for score in several),
        "uncompared": sum(part.num_uncompared for part in measured.parts.values()),
        "unscored": int(sum(np.isnan(part).sum() for part in scores)),
        "numbers": _plain(numbers(found, seed)),
    }


def _comparisons(first: Sequence[Card], second: Sequence[Card], seed: int) -> dict[str, Any]:
    sets = {one.name: _comparison(compare([one], [other], seed)) for one, other in zip(first, second, strict=True)}
    return {"data": sets, "all": _comparison(compare(first, second, seed))}


def _comparison(found: Comparison) -> dict[str, Any]:
    return {
        "only_first_right": found.only_first,
        "only_second_right": found.only_second,
        "p_value": found.p_value,
        "differences": _plain(found.differences),
        "win_rates": _plain(found.win_rates),
    }


def _plain(found: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """As JSON has it, which knows no NaN."""
    return {
        name: {end: None if np.isnan(value) else value for end, value in asdict(estimate).items()}
        for name, estimate in found.items()
    }


def _rows(models: Sequence[ModelAnswers]) -> Iterator[dict[str, Any]]:
    for model in models:
        for measured in model.sets:
            for kind, part in measured.parts.items():
                for place in range(len(measured.prompts)):
                    for row in _responses(measured, part, place):
                        yield {"model": model.path, "data": measured.name, "kind": kind, **row}


def _responses(measured: Measured, part: Responses, place: int) -> Iterator[dict[str, Any]]:
    """The responses to one prompt."""
    prompt = measured.prompts[place]
    for index, trajectory in enumerate(part.answers.trajectories[place]):
        yield {
            "prompt_id": str(prompt.columns.get("id", prompt.row)),
            "sample_index": index,
            "prompt": prompt.text,
            "gold": prompt.answer,
            "response": trajectory.text,
            "answer": None if part.marked is None else part.marked[place][index],
            "vote": None if part.classes is None else part.classes[place][index],
            "is_right": bool(part.answers.is_right[place, index]),
            "reward": part.answers.scores[place][index].value,
            "status": str(part.answers.scores[place][index].status),
            "score": None if part.scores is None or np.isnan(s := part.scores[place, index]) else float(s),
            "finish_reason": trajectory.finish_reason,
            "num_tokens": trajectory.num_response_tokens,
        }
