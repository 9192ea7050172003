"""A sampling engine without a model, for what is about workers and not about sampling.

Its tokens depend on each sequence's seed alone.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.messages import RolloutSpec, SequenceRequest
from experience.episode import Completion

LIGHT_ENGINE = "tests.actors.light_engine:LightEngine"
SECONDS_PER_STEP = 0.001


@dataclass(slots=True)
class _Sequence:
    request: SequenceRequest
    length: int
    tokens: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)


class LightEngine:
    """Samples a token of each sequence a step, which takes a millisecond."""

    def __init__(self, spec: RolloutSpec) -> None:
        self.version: int | None = None
        self.num_tokens = 0
        self.ties_embeddings = False
        self._running: dict[str, _Sequence] = {}

    @property
    def num_running(self) -> int:
        return len(self._running)

    def add(self, request: SequenceRequest) -> None:
        # Long-tailed: most are short, a few take all they may.
        draw = np.random.default_rng(request.seed).lognormal(mean=np.log(request.max_tokens / 6), sigma=0.8)
        self._running[request.id] = _Sequence(request=request, length=int(np.clip(draw, 1, request.max_tokens)))

    def step(self) -> list[tuple[str, Completion]]:
        assert self.version is not None, "an engine without proven weights must not sample"
        time.sleep(SECONDS_PER_STEP)
        finished = []
        for id_, sequence in list(self._running.items()):
            place = len(sequence.tokens)
            sequence.tokens.append(5 + (sequence.request.seed + 7 * place) % 50)
            sequence.versions.append(self.version)
            self.num_tokens += 1
            if len(sequence.tokens) == sequence.length:
                del self._running[id_]
                finished.append((id_, _completion(sequence)))
        return finished

    def load(self, version: int, tensors: Iterable[Any]) -> None:
        for _ in tensors:
            pass
        self.version = version

    def warm_up(self) -> float:
        return 0.0

    def close(self) -> None:
        self._running.clear()


def _completion(sequence: _Sequence) -> Completion:
    is_cut = sequence.length == sequence.request.max_tokens
    return Completion(
        tokens=np.array(sequence.tokens, dtype=np.int32),
        logprobs=np.full(len(sequence.tokens), -1.0, dtype=np.float32),
        versions=np.array(sequence.versions, dtype=np.int32),
        finish_reason="length" if is_cut else "stop",
    )
