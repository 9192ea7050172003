"""From conversations to tokens: the chat template, and special tokens that no user can forge."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # importing transformers takes seconds
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Message: TypeAlias = Mapping[str, str]
Conversation: TypeAlias = Sequence[Message]

ROLES = ("system", "user", "assistant", "tool")
# Cuts the name of a special token that stands in a text. Unicode reserves it: it is never a character.
_CUT = "\ufdd0"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """A prompt as data, as tokens, and as the text that the tokens stand for, template included."""

    messages: tuple[Message, ...]
    tokens: NDArray[np.int32]
    text: str


class Encoder:
    """Renders and tokenises prompts as the policy is to read them.

    With a chat template every prompt becomes a conversation; without one only plain text is possible.
    Names of special tokens inside messages are read letter by letter: a user who writes <|end|> ends nothing.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", system_prompt: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.has_template = tokenizer.chat_template is not None
        if system_prompt is not None and not self.has_template:
            raise ValueError(
                "data.system_prompt needs a chat template and the tokenizer has none; set data.chat_template"
            )
        self._system_prompt = system_prompt
        self._special = _special_names(tokenizer)
        self._backend = _backend(tokenizer)
        empty = tokenizer("").input_ids
        self.document_start: tuple[int, ...] = tuple(empty[:1]) if empty[:1] == [tokenizer.bos_token_id] else ()

    def conversation(self, value: str | Conversation) -> list[Message]:
        """The messages of one prompt, with the system prompt before them if they have none.

        ValueError says what is wrong with a message; the caller knows the row.
        """
        given: Conversation = [{"role": "user", "content": value}] if isinstance(value, str) else value
        messages = [_checked(message) for message in given]
        if self._system_prompt is not None and not any(m["role"] == "system" for m in messages):
            messages.insert(0, {"role": "system", "content": self._system_prompt})
        return messages

    def render(self, conversations: Sequence[Conversation], *, generation: bool = True) -> list[str]:
        """The template's text for each conversation; special names in messages hold a cut (see `encode`).

        `generation`: end with the opening of the assistant's turn.
        """
        if not self.has_template:
            raise ValueError("the data are messages but the tokenizer has no chat template; set data.chat_template")
        safe = [[{**m, "content": self.cut(m["content"])} for m in messages] for messages in conversations]
        texts = self.tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=generation)
        return [str(text) for text in texts]

    def cut(self, text: str) -> str:
        """`text` with a cut inside every name of a special token."""
        if _CUT in text:
            raise ValueError("the text holds U+FDD0, which is not a character; remove it")
        return self._special.sub(rf"\1{_CUT}", text)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Tokens of rendered texts. Pieces between cuts are encoded alone, so no name is whole in any."""
        if not texts:
            return []
        pieces = [text.split(_CUT) for text in texts]
        encoded = iter(self._ids([piece for parts in pieces for piece in parts]))
        return [np.array(list(chain.from_iterable(islice(encoded, len(parts)))), dtype=np.int32) for parts in pieces]

    def _ids(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        if self._backend is None:
            return self.tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids
        return [row.ids for row in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_plain(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Tokens of plain texts, with the start token if the tokenizer wants one; special names are cut."""
        start = np.array(self.document_start, dtype=np.int32)
        return [np.concatenate([start, tokens]) for tokens in self.encode([self.cut(text) for text in texts])]

    def encode_prompts(self, values: Sequence[str | Conversation]) -> list[EncodedPrompt]:
        """Prompts ready for a response to be sampled after them. ValueError: a prompt that cannot be answered."""
        conversations = [self.conversation(value) for value in values]
        for messages in conversations:
            check_prompt(messages)
        if self.has_template:
            texts = self.render(conversations)
            tokens = self.encode(texts)
        else:
            if not all(isinstance(value, str) for value in values):
                raise ValueError("the data are messages but the tokenizer has no chat template; set data.chat_template")
            texts = [messages[-1]["content"] for messages in conversations]
            tokens = self.encode_plain(texts)
        return [
            EncodedPrompt(messages=tuple(messages), tokens=row, text=text.replace(_CUT, ""))
            for messages, row, text in zip(conversations, tokens, texts, strict=True)
        ]


def check_prompt(messages: Conversation) -> None:
    """ValueError unless a response can follow: known roles, something asked, and not answered yet."""
    if not messages:
        raise ValueError("the prompt holds no message")
    if messages[-1]["role"] == "assistant":
        raise ValueError("the prompt ends with an assistant message, so there is nothing to answer; remove it")
    if all(message["role"] == "system" for message in messages):
        raise ValueError("the prompt holds only a system message; add a user message")


def _checked(message: object) -> Message:
    if not isinstance(message, Mapping):
        raise ValueError(f"the conversation holds a message of type {type(message).__name__}; want {{role, content}}")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(f"the conversation has role {role!r}; choose one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(
            f"the conversation has a {role} message with content of type {type(content).__name__}; want a text"
        )
    return {"role": role, "content": content}


def _special_names(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str]:
    """Matches the first character of every special token's name, overlapping ones too."""
    added = tokenizer.added_tokens_decoder.values()
    names = {entry.content for entry in added if entry.special} | set(tokenizer.all_special_tokens)
    # A cut needs two characters; no tokenizer in use has a shorter special token.
    choices = "|".join(re.escape(name) for name in sorted(names) if len(name) > 1)
    return re.compile(rf"(?=(?:{choices}))(.)", re.DOTALL) if choices else re.compile(r"(?!)()")


def _backend(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer | None":
    """A copy of the tokenizer's Rust side (none: it is written in Python), a third of the time of a full call."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    copied = copy.deepcopy(backend)
    copied.no_truncation()
    copied.no_padding()
    copied.encode_special_tokens = False
    return copied
