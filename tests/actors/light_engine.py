"""A sampling engine without a model, for what is about workers and not about sampling.

Its tokens depend on each sequence's seed alone. A file in the model's folder, called after a fault and a process,
makes that process have the fault: `slow_1234`, `nan_1234`, `refuse_1234`, `lost_1234`.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.messages import EngineStats, RolloutSpec, SequenceRequest
from experience.episode import Completion
from experience.records import Weights

LIGHT_ENGINE = "tests.actors.light_engine:LightEngine"
SECONDS_PER_STEP = 0.001
TIMES_SLOWER = 10


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
        self._prompts: set[tuple[int, ...]] = set()
        self._num_queries = self._num_hits = 0
        self.stats = EngineStats()
        self._folder = Path(spec.model_path)
        self.can_sleep = spec.config.colocated

    @property
    def num_running(self) -> int:
        return len(self._running)

    def add(self, request: SequenceRequest) -> None:
        prompt = tuple(request.tokens)
        self._num_queries += len(prompt)
        self._num_hits += len(prompt) if prompt in self._prompts else 0
        self._prompts.add(prompt)
        # Long-tailed: most are short, a few take all they may.
        draw = np.random.default_rng(request.seed).lognormal(mean=np.log(request.max_tokens / 6), sigma=0.8)
        self._running[request.id] = _Sequence(request=request, length=int(np.clip(draw, 1, request.max_tokens)))

    def abort(self, request_ids: Sequence[str]) -> None:
        for id_ in request_ids:
            self._running.pop(id_, None)

    def step(self) -> list[tuple[str, Completion]]:
        assert self.version is not None, "an engine without proven weights must not sample"
        time.sleep(SECONDS_PER_STEP * (TIMES_SLOWER if self._has("slow") else 1))
        finished = []
        for id_, sequence in list(self._running.items()):
            place = len(sequence.tokens)
            sequence.tokens.append(5 + (sequence.request.seed + 7 * place) % 50)
            sequence.versions.append(self.version)
            self.num_tokens += 1
            if len(sequence.tokens) == sequence.length:
                del self._running[id_]
                finished.append((id_, _completion(sequence, math.nan if self._has("nan") else -1.0)))
        self.stats = EngineStats(
            num_running=len(self._running),
            kv_cache_usage=min(1.0, len(self._running) / 16),
            num_prefix_queries=self._num_queries,
            num_prefix_hits=self._num_hits,
        )
        return finished

    def _has(self, fault: str) -> bool:
        return (self._folder / f"{fault}_{os.getpid()}").exists()

    def load(self, weights: Weights, contents: Sequence[Any]) -> None:
        if self._has("refuse"):
            raise RuntimeError("half of the weights did not come")
        self.version = weights.version

    def check(self) -> None:
        if self._has("lost"):
            raise RuntimeError("a process of the engine is lost")

    def sleep(self) -> None:
        assert self.can_sleep and not self._running
        self.version = None

    def warm_up(self) -> float:
        return 0.0

    def close(self) -> None:
        self._running.clear()


def _completion(sequence: _Sequence, logprob: float) -> Completion:
    is_cut = sequence.length == sequence.request.max_tokens
    return Completion(
        tokens=np.array(sequence.tokens, dtype=np.int32),
        logprobs=np.full(len(sequence.tokens), logprob, dtype=np.float32),
        versions=np.array(sequence.versions, dtype=np.int32),
        finish_reason="length" if is_cut else "stop",
    )
