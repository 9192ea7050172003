"""Prompts: the usable rows of a data set, and the endless stream of them that a run draws from."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.schema.data import DataConfig
from experience import checks
from experience.checks import GoldPolicy
from experience.dataset import Dataset
from experience.encoding import EncodedPrompt, Encoder
from experience.errors import DataError
from experience.order import EpochOrder
from experience.records import Prompt

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


# Evaluation prompts are numbered from here, far above any training prompt, and still exact as a float.
FIRST_EVAL_ORDINAL = 2**40
_ROWS_PER_BATCH = 4096


class PromptTable:
    """The rows of a data set that can be prompts. All are checked at once, and tokenised when drawn.

    `rows`: their places in the data set. DataError names what is wrong, in which file and row.
    """

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: "PreTrainedTokenizerBase",
        config: DataConfig,
        golds: GoldPolicy = GoldPolicy(),  # noqa: B008 - frozen
    ) -> None:
        wanted = {"data.prompt_column": config.prompt_column}
        checks.check_columns(dataset, wanted | ({"data.answer_column": config.answer_column} if golds.required else {}))
        checks.check_ids(dataset)
        self.dataset = dataset
        self._config = config
        self._encoder = Encoder(tokenizer, config.system_prompt)
        self._prompts = checks.prompt_column(dataset, config.prompt_column)
        self._answers = self._answer_texts()
        self.rows = self._usable_rows(golds)

    def __len__(self) -> int:
        return len(self.rows)

    def keys(self) -> set[str]:
        """The usable prompts, as texts that are equal for equal prompts."""
        return set(checks.prompt_keys(self._prompts.take(pa.array(self.rows))))

    def texts(self, rows: Sequence[int]) -> list[Any]:
        """The prompts of these rows as the data set has them: texts, or messages."""
        return self._prompts.take(pa.array(rows, type=pa.int64())).to_pylist()

    def prompts(self, rows: NDArray[np.int64], ordinals: NDArray[np.int64], epochs: NDArray[np.int64]) -> list[Prompt]:
        """The records of rows of the data set, at these places of the run."""
        own = (self._config.prompt_column, self._config.answer_column)
        columns = self.dataset.table.take(pa.array(rows)).to_pylist()
        encoded = [self._shortened(prompt) for prompt in self._encode(rows)]
        return [
            Prompt(
                ordinal=int(ordinals[place]),
                epoch=int(epochs[place]),
                row=int(row),
                tokens=prompt.tokens,
                text=prompt.text,
                messages=prompt.messages,
                answer=None if self._answers is None else self._answers[int(row)].as_py(),
                columns={name: value for name, value in columns[place].items() if name not in own},
            )
            for place, (row, prompt) in enumerate(zip(rows, encoded, strict=True))
        ]

    def _answer_texts(self) -> pa.ChunkedArray | None:
        if self._config.answer_column not in self.dataset.table.column_names:
            return None
        return checks.text_column(self.dataset, self._config.answer_column, "data.answer_column")

    def _usable_rows(self, golds: GoldPolicy) -> NDArray[np.int64]:
        reasons = {"no prompt": checks.missing_rows(self._prompts)}
        if golds.required and self._answers is not None:
            reasons["no answer"] = checks.missing_rows(self._answers)
        checks.refuse_missing(self.dataset, reasons, self._config.missing_values)
        if self._answers is not None:
            checks.warn_of_contradictions(self.dataset, checks.prompt_keys(self._prompts), self._answers)
            reasons["a bad gold"] = checks.rows_with_bad_golds(self.dataset, self._answers, golds)
        present = np.flatnonzero(~np.logical_or.reduce(list(reasons.values())))
        reasons[f"more than data.max_prompt_tokens={self._config.max_prompt_tokens}"] = self._long_rows(present)
        return checks.keep(self.dataset, reasons)

    def _long_rows(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """True for prompts to leave out for their length: [rows of the data set]."""
        limit, policy = self._config.max_prompt_tokens, self._config.long_prompts
        frame = len(self._encode(rows[:1])[0].tokens) if len(rows) else 0
        unsure = rows[~checks.surely_short([self._prompts], rows, limit - frame)]
        lengths = self._lengths(unsure)
        long = unsure[lengths > limit]
        dropped = np.zeros(len(self.dataset), dtype=bool)
        if not len(long):
            return dropped
        if len(long) == len(rows):
            quantiles = ", ".join(f"{q} %: {np.percentile(lengths, q):.0f}" for q in (0, 50, 90, 100))
            raise DataError(
                f"{self.dataset.source}: every prompt has more than data.max_prompt_tokens={limit} tokens ({quantiles})"
            )
        what = f"{len(long)} of {len(rows)} prompts have more than data.max_prompt_tokens={limit} tokens"
        places = self.dataset.where_all(long)
        if policy == "refuse":
            raise DataError(
                f"{what} (the longest {lengths.max()}): {places}; "
                "raise it, or set data.long_prompts to drop or truncate_left"
            )
        logger.warning("%s (data.long_prompts=%s): %s", what, policy, places)
        dropped[long] = policy == "drop"
        return dropped

    def _lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        batches = (rows[start : start + _ROWS_PER_BATCH] for start in range(0, len(rows), _ROWS_PER_BATCH))
        return np.array([len(prompt.tokens) for batch in batches for prompt in self._encode(batch)], dtype=np.int64)

    def _encode(self, rows: NDArray[np.int64]) -> list[EncodedPrompt]:
        values = self._prompts.take(pa.array(rows)).to_pylist()
        return checks.encode_rows(self.dataset, rows, values, self._encoder.encode_prompts)

    def _shortened(self, prompt: EncodedPrompt) -> EncodedPrompt:
        """The prompt's end, where data.long_prompts=truncate_left lets longer ones come this far."""
        limit = self._config.max_prompt_tokens
        if len(prompt.tokens) <= limit:
            return prompt
        tokens = prompt.tokens[-limit:]
        text = self._encoder.tokenizer.decode(tokens.tolist())
        return EncodedPrompt(messages=prompt.messages, tokens=tokens, text=str(text))


class PromptStream:
    """The endless stream of prompts: the one at place k depends on the seed and k alone.

    `cursor`, the next place, is all that a resumed run needs.
    """

    def __init__(self, table: PromptTable, *, seed: int, shuffle: bool = True) -> None:
        self.cursor = 0
        self._table = table
        self._order = EpochOrder(size=len(table), seed=seed, shuffle=shuffle)

    @property
    def prompts_per_epoch(self) -> int:
        """Places until every prompt was drawn once more."""
        return self._order.size

    def seek(self, ordinal: int) -> None:
        """Go on from this place."""
        self.cursor = ordinal

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts."""
        prompts = self.at(self.cursor, count)
        self.cursor += count
        return prompts

    def at(self, ordinal: int, count: int = 1) -> list[Prompt]:
        """Prompts at the places from `ordinal` on; the cursor stays."""
        epochs, places = self._order.rows(ordinal, count)
        return self._table.prompts(self._table.rows[places], np.arange(ordinal, ordinal + count), epochs)


def eval_prompts(table: PromptTable, count: int) -> list[Prompt]:
    """The first `count` prompts (all, if there are fewer), numbered apart from any training prompt."""
    rows = table.rows[:count]
    return table.prompts(rows, FIRST_EVAL_ORDINAL + np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64))


def warn_of_overlap(train: PromptTable, held_out: PromptTable) -> int:
    """Warn of held-out prompts that are trained on; returns how many there are."""
    shared = len(train.keys() & held_out.keys())
    if shared:
        logger.warning(
            "%d of %d held-out prompts (%s) are also in the training data (%s): evaluation will flatter",
            shared, len(held_out), held_out.dataset.source, train.dataset.source,
        )  # fmt: skip
    return shared
