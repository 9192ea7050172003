"""Tokenizers: made by the project for new models, or loaded with the rules that training needs."""

import logging
import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from configs.schema.model import TokenizerConfig

if TYPE_CHECKING:  # importing transformers takes seconds; what only draws data should not pay them
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
SPECIAL_TOKENS = (PAD, END, UNKNOWN, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
CHARACTERS = "\n" + "".join(sorted(set(string.printable) - set(string.whitespace) | {" "}))
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tiktoken.model", "spiece.model")
# Tokens that other tokenizers keep for padding, where `pad_token` itself was left unset.
_PAD_NAMES = (PAD, "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>")


def build_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
    """A new tokenizer with a chat template; its end-of-sequence token is the end of a turn.

    `texts` train the BPE vocabulary; for `characters` they are only checked, and ValueError names the
    first character that the tokenizer does not have.
    """
    from transformers import PreTrainedTokenizerFast

    backend = _train_bpe(config, texts) if config.kind == "bpe" else _character_backend(texts)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def load_tokenizer(
    path: str | Path, *, chat_template: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """The tokenizer of a checkpoint, never without a padding token.

    `chat_template`: a file with a Jinja template, put in place of the tokenizer's own.
    """
    from transformers import AutoTokenizer

    folder = Path(path)
    # Without any of these transformers makes an empty tokenizer of the model's family, and says nothing.
    if folder.is_dir() and not any((folder / name).exists() for name in _VOCABULARY_FILES):
        raise ValueError(f"model.path={str(path)!r} holds no tokenizer (none of {', '.join(_VOCABULARY_FILES)})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"model.path={str(path)!r}: no tokenizer could be loaded from it: {reason}") from error
    if chat_template is not None:
        tokenizer.chat_template = _read_template(chat_template)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{path}: the tokenizer has no eos_token, so no response could end; set it there")
    _ensure_pad_token(tokenizer, str(path))
    return tokenizer


def stop_token_ids(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Tokens that end a response: end of sequence, and the end of an assistant's turn in the chat template."""
    special = special_token_ids(tokenizer)
    stops = [int(str(tokenizer.eos_token_id))]
    if tokenizer.chat_template is not None:
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        text = str(tokenizer.apply_chat_template(turn, tokenize=False))
        after = tokenizer(text[text.rindex("b") + 1 :], add_special_tokens=False).input_ids
        stops += [token for token in after[:1] if token in special]
    return tuple(dict.fromkeys(stops))


def special_token_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Ids of the tokens that only templates may make, never a user's text."""
    added = tokenizer.added_tokens_decoder
    return frozenset(token for token, entry in added.items() if entry.special) | frozenset(tokenizer.all_special_ids)


def _character_backend(texts: Iterable[str]) -> "Tokenizer":
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    for number, text in enumerate(texts):
        if strange := set(text) - set(CHARACTERS):
            raise ValueError(
                f"model.new.tokenizer.kind=characters has no token for {min(strange)!r} (text {number}); "
                "it knows printable ASCII and newline: use kind=bpe"
            )
    names = [*SPECIAL_TOKENS, *CHARACTERS]
    vocabulary = {name: number for number, name in enumerate(names)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return backend


def _train_bpe(config: TokenizerConfig, texts: Iterable[str]) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_batches(texts), trainer=trainer)
    return backend


def _batches(texts: Iterable[str], size: int = 1024) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data.chat_template={path!r}: cannot be read: {error}") from error


def _ensure_pad_token(tokenizer: "PreTrainedTokenizerBase", path: str) -> None:
    if tokenizer.pad_token_id is not None:
        return
    vocabulary = tokenizer.get_vocab()
    # Padding never reaches a loss here (masks go by position), so the end token may serve.
    tokenizer.pad_token = next((name for name in _PAD_NAMES if name in vocabulary), tokenizer.eos_token)
    logger.warning("%s: the tokenizer has no pad token; using %r", path, tokenizer.pad_token)
