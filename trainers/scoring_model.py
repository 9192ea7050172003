"""A reward model at work: texts in, values out, batched by tokens."""

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from configs.schema.model import Dtype
from configs.schema.training import TrainerConfig
from experience.conversations import JudgedEncoder
from experience.encoding import Encoder
from experience.tokenizer import load_tokenizer
from rewards.contract import RewardError, RewardInput, Score, Status
from trainers.model import TORCH_DTYPES
from trainers.model_files import reward_normalization
from trainers.reward_model import checked_classifier

# B sequences, T tokens of the longest


class ScoringModel:
    """A sequence classifier with one label, in this process. Fulfils `rewards.contract.Scorer`.

    A conversation goes through the model's own chat template, or prompt and response stand one after the other
    where it has none. A sample that cannot be judged gets a score of status ERROR, and harms no other.
    Any thread may call it; one forward runs at a time.
    """

    def __init__(
        self, path: str, *, dtype: Dtype = "float32", tokens_per_batch: int = 8192, ranks: TrainerConfig | None = None
    ) -> None:
        """Loads it, onto the GPU where there is one. ValueError for a checkpoint that is no reward model.

        `ranks`: the group of ranks that this process has joined, to hold the model together with them.
        """
        encoder = Encoder(load_tokenizer(path))
        self._has_template = encoder.has_template
        self._encoder = JudgedEncoder(encoder)
        model = _load(path, dtype)
        self._config = model.config
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._rank, self._num_ranks = (dist.get_rank(), ranks.num_ranks) if ranks else (0, 1)
        self._model: Callable[..., Any] = _partitioned(model, ranks, dtype) if ranks else _moved(model, self._device)
        self._normalization = reward_normalization(path)
        self._tokens_per_batch = tokens_per_batch
        self._forward_lock = threading.Lock()

    def check(self, items: Sequence[RewardInput]) -> None:
        """Score these; RewardError when one of them cannot be."""
        for score in self.score_blocking(items):
            if score.status.is_failure:
                raise RewardError(f"rewards: the reward model cannot judge a trial sample: {score.detail}")

    async def score(self, items: Sequence[RewardInput]) -> list[Score]:
        """One score for each item, in order: the model's value, less the stored mean, over the stored deviation."""
        return await asyncio.to_thread(self.score_blocking, items)

    def score_blocking(self, items: Sequence[RewardInput]) -> list[Score]:
        """`score` for callers without an event loop."""
        scores = self.score_share(items)
        return [scores[row] for row in range(len(items))]

    def score_share(self, items: Sequence[RewardInput]) -> dict[int, Score]:
        """Scores by the item's place: of every item, or of this rank's share of them, which it takes from the batches.

        All ranks enter with the same items.
        """
        scores: dict[int, Score] = {}
        sequences: dict[int, NDArray[np.int32]] = {}
        for row, item in enumerate(items):
            try:
                sequences[row] = self._tokens(item)
            except (ValueError, TemplateError) as error:
                scores[row] = Score(value=None, status=Status.ERROR, detail=str(error))
        budget = self._tokens_per_batch if self._config.pad_token_id is not None else 0
        batches = list(token_batches({row: len(tokens) for row, tokens in sequences.items()}, budget))
        for first in range(0, len(batches), self._num_ranks):
            own = first + self._rank
            # A rank without a batch of its own computes along: the others need its share of the weights.
            rows = batches[min(own, len(batches) - 1)]
            values = self._values([sequences[row] for row in rows])
            if own < len(batches):
                scores |= {row: self._score(value) for row, value in zip(rows, values, strict=True)}
        return scores

    def _tokens(self, item: RewardInput) -> NDArray[np.int32]:
        """The sample as the model reads it; ValueError when it is too long or its template refuses it."""
        prompt = (list(item.messages) or item.prompt) if self._has_template else item.prompt
        tokens = self._encoder.encode([(prompt, item.response)])[0].tokens
        longest = getattr(self._config, "max_position_embeddings", None)
        if not len(tokens) or (longest is not None and len(tokens) > longest):
            raise ValueError(f"a text of {len(tokens)} tokens; the reward model takes 1 to {longest or 'any number'}")
        return tokens

    @torch.no_grad()  # not inference_mode: ZeRO-3 would gather weights that it could not release
    def _values(self, sequences: Sequence[NDArray[np.int32]]) -> list[float]:
        """The model's raw value for each sequence."""
        longest = max(map(len, sequences))
        shape = (len(sequences), longest)
        input_ids = torch.full(shape, self._config.pad_token_id or 0)  # [B, T], padded on the right
        for row, tokens in enumerate(sequences):
            input_ids[row, : len(tokens)] = torch.from_numpy(tokens)
        lengths = torch.tensor([len(tokens) for tokens in sequences])
        mask = torch.arange(longest) < lengths[:, None]  # [B, T]
        with self._forward_lock:
            output = self._model(input_ids.to(self._device), attention_mask=mask.long().to(self._device))
            logits: Tensor = output.logits  # [B, 1]
            return logits.float().squeeze(1).tolist()

    def _score(self, value: float) -> Score:
        if not math.isfinite(value):
            return Score(value=None, status=Status.ERROR, detail=f"the reward model answers {value}")
        return Score(value=self._normalization.apply(value))


def token_batches(lengths: dict[int, int], budget: int) -> Iterator[list[int]]:
    """Rows in batches of like length, each of at most `budget` tokens with padding; one over it stands alone.

    `lengths`: tokens by row.
    """
    batch: list[int] = []
    for row in sorted(lengths, key=lambda row: lengths[row], reverse=True):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _load(path: str, dtype: Dtype) -> PreTrainedModel:
    loaded: Any = AutoModelForSequenceClassification.from_pretrained(
        path, dtype=TORCH_DTYPES[dtype], use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    return checked_classifier(*loaded, path=path).eval()


def _moved(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    return model.to(device)  # type: ignore[arg-type]


def _partitioned(model: PreTrainedModel, ranks: TrainerConfig, dtype: Dtype) -> Callable[..., Any]:
    from trainers.zero.frozen import FrozenModel  # DeepSpeed takes seconds, which a single process should not spend

    return FrozenModel(model, ranks, dtype=dtype)
