"""Conversations as token sequences, with a mask of the tokens that the loss counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from experience.encoding import Conversation, Encoder, Message
from experience.tokenizer import stop_token_ids

# A prompt and its response; or, with no response, messages that hold the assistant's turns already.
Pair: TypeAlias = tuple[str | Conversation, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSequence:
    """One sequence; `loss_mask` is True on the tokens that the loss counts. Both [T]."""

    tokens: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """A rendered stretch of a conversation, and whether the assistant said it."""

    text: str
    is_learned: bool


class PairEncoder(Protocol):
    """One way to make sequences of prompts and their responses."""

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedSequence]:
        """One sequence a pair. ValueError says what is wrong; the caller knows the row."""
        ...


class JudgedEncoder:
    """Encodes the whole conversation at once, as a reward model reads it; the last token alone counts."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedSequence]:
        """One sequence a pair. ValueError says what is wrong; the caller knows the row."""
        tokens = self._with_template(pairs) if self._encoder.has_template else self._plain(pairs)
        return [EncodedSequence(tokens=row, loss_mask=np.arange(len(row)) == len(row) - 1) for row in tokens]

    def _with_template(self, pairs: Sequence[Pair]) -> list[NDArray[np.int32]]:
        answer = [{"role": "assistant", "content": str(response)} for _, response in pairs]
        turns = [[*self._encoder.conversation(prompt), last] for (prompt, _), last in zip(pairs, answer, strict=True)]
        return self._encoder.encode(self._encoder.render(turns, generation=False))

    def _plain(self, pairs: Sequence[Pair]) -> list[NDArray[np.int32]]:
        if not all(isinstance(prompt, str) for prompt, _ in pairs):
            raise ValueError("the data are messages but the tokenizer has no chat template; set data.chat_template")
        return self._encoder.encode_plain([f"{prompt}{response}" for prompt, response in pairs])


class LastTurnEncoder:
    """As ConversationEncoder, but earlier answers of the assistant belong to the prompt."""

    def __init__(self, encoder: Encoder) -> None:
        self._turns = ConversationEncoder(encoder)

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedSequence]:
        """One sequence a pair. ValueError says what is wrong; the caller knows the row."""
        return [
            EncodedSequence(tokens=one.tokens, loss_mask=_last_run(one.loss_mask)) for one in self._turns.encode(pairs)
        ]


class ConversationEncoder:
    """Encodes each turn by itself, so that a prompt's tokens are those that sampling would start from."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._stops = stop_token_ids(encoder.tokenizer)

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedSequence]:
        """One sequence a pair. ValueError says what is wrong; the caller knows the row."""
        if not self._encoder.has_template:
            return self._encode_plain(pairs)
        turns = self._turns([self._messages(prompt, response) for prompt, response in pairs])
        tokens = iter(self._encoder.encode([turn.text for row in turns for turn in row]))
        return [self._join(row, list(islice(tokens, len(row)))) for row in turns]

    def _messages(self, prompt: str | Conversation, response: str | None) -> list[Message]:
        messages = self._encoder.conversation(prompt)
        if response is not None:
            messages.append({"role": "assistant", "content": response})
        if messages[-1]["role"] != "assistant":
            raise ValueError("the conversation does not end with an assistant message, so its end teaches nothing")
        if len(messages) == 1:
            raise ValueError("the conversation holds nothing but an answer; put a user message before it")
        return messages

    def _turns(self, conversations: Sequence[Sequence[Message]]) -> list[list[_Turn]]:
        """The rendered conversations, cut where the assistant begins and ends to speak."""
        answers = [[i for i, message in enumerate(row) if message["role"] == "assistant"] for row in conversations]
        places = [(row, place) for row, here in zip(conversations, answers, strict=True) for place in here]
        opened = self._encoder.render([row[:place] for row, place in places])
        closed = self._encoder.render([row[: place + 1] for row, place in places], generation=False)
        stretches = iter(zip(opened, closed, strict=True))
        return [_cut_turns(list(islice(stretches, len(here)))) for here in answers]

    def _join(self, turns: Sequence[_Turn], tokens: Sequence[NDArray[np.int32]]) -> EncodedSequence:
        masks = [
            self._learned(part) if turn.is_learned else np.zeros(len(part), dtype=bool)
            for turn, part in zip(turns, tokens, strict=True)
        ]
        return EncodedSequence(tokens=np.concatenate(tokens), loss_mask=np.concatenate(masks))

    def _learned(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        """True up to the token that ends the turn; what a template puts after it is never sampled."""
        ends = np.flatnonzero(np.logical_or.reduce([tokens == stop for stop in self._stops]))
        if not len(ends):
            raise ValueError("the chat template ends an assistant's turn with no stop token, so none would be learned")
        return np.arange(len(tokens)) <= ends[-1]

    def _encode_plain(self, pairs: Sequence[Pair]) -> list[EncodedSequence]:
        if not all(isinstance(prompt, str) and response is not None for prompt, response in pairs):
            raise ValueError("the data are messages but the tokenizer has no chat template; set data.chat_template")
        end = np.array(self._stops[:1], dtype=np.int32)
        prompts = self._encoder.encode_plain([str(prompt) for prompt, _ in pairs])
        responses = self._encoder.encode([self._encoder.cut(str(response)) for _, response in pairs])
        return [
            EncodedSequence(
                tokens=np.concatenate([prompt, response, end]),
                loss_mask=np.arange(len(prompt) + len(response) + 1) >= len(prompt),
            )
            for prompt, response in zip(prompts, responses, strict=True)
        ]


def _last_run(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with nothing but its last unbroken stretch."""
    num_breaks_after = np.cumsum((~mask)[::-1])[::-1]
    return mask & (num_breaks_after == num_breaks_after[mask].min(initial=len(mask)))


def _cut_turns(stretches: Sequence[tuple[str, str]]) -> list[_Turn]:
    """`stretches`: the conversation up to each answer, without it and with it."""
    turns, done = [], ""
    for before, after in stretches:
        if not before.startswith(done) or not after.startswith(before):
            raise ValueError(
                "the chat template changes earlier turns when later ones follow, so their tokens are not those "
                "that were sampled; give one assistant message a row"
            )
        turns.append(_Turn(text=before[len(done) :], is_learned=False))
        turns.append(_Turn(text=after[len(before) :], is_learned=True))
        done = after
    return turns
