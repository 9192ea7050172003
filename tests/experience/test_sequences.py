import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import DataConfig, TokenizerConfig
from experience.dataset import load_dataset
from experience.errors import DataError
from experience.prompts import PromptTable, eval_prompts
from experience.records import TokenBlock
from experience.sequences import ConversationSequences, SequenceStream, TextSequences, first_sequences
from experience.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer(TokenizerConfig(), [])
CONFIG = DataConfig(train="train.jsonl")


def plain_tokenizer():
    tokenizer = build_tokenizer(TokenizerConfig(), [])
    tokenizer.chat_template = None
    return tokenizer


def data_at(folder, rows):
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_dataset(str(folder / "train.jsonl"))


def sft(folder, rows, *, tokenizer=TOKENIZER, config=CONFIG, limit=200):
    return ConversationSequences(data_at(folder, rows), tokenizer, config, limit)


def block_of(sequences):
    return first_sequences(sequences, 10**6)


def shown(sequences):
    """Each sequence as text, the tokens that the loss counts in brackets."""
    block, texts = block_of(sequences), []
    for row in range(len(block)):
        span = block.span(row)
        names = TOKENIZER.convert_ids_to_tokens(block.tokens[span].tolist())
        mask = block.response_mask[span]
        edges = np.diff(np.concatenate([[False], mask, [False]]).astype(int))
        marks = ["[" if edge == 1 else "]" if edge == -1 else "" for edge in edges]
        texts.append("".join(mark + name for mark, name in zip(marks, [*names, ""], strict=True)))
    return texts


def test_a_response_and_the_end_of_its_turn_count(tmp_path):
    pool = sft(tmp_path, [{"prompt": "1+1=?", "response": "2"}, {"prompt": "a", "response": "bc"}])
    assert shown(pool) == [
        "<|user|>1+1=?<|end|><|assistant|>[2<|end|>]",
        "<|user|>a<|end|><|assistant|>[bc<|end|>]",
    ]


def test_every_assistant_turn_of_a_conversation_counts(tmp_path):
    chat = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    rows = [{"prompt": [{"role": role, "content": content} for role, content in chat]}]
    assert shown(sft(tmp_path, rows)) == [
        "<|system|>s<|end|><|user|>a<|end|><|assistant|>[b<|end|>]<|user|>c<|end|><|assistant|>[d<|end|>]"
    ]


def test_the_prompt_of_a_sequence_has_the_tokens_that_sampling_starts_from(tmp_path):
    tokenizer = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=400), ["<b> and now b> = <b> "] * 50)
    rows = [{"prompt": "and now", "response": "b> = <b>", "answer": ""}]
    pool = sft(tmp_path, rows, tokenizer=tokenizer)
    config = DataConfig(train="x", missing_values="drop")
    rows[0]["answer"] = "1"
    prompt = eval_prompts(PromptTable(data_at(tmp_path, rows), tokenizer, config), 1)[0]
    block = block_of(pool)
    assert np.array_equal(block.tokens[: len(prompt.tokens)], prompt.tokens)
    assert np.array_equal(block.response_mask, np.arange(len(block.tokens)) >= len(prompt.tokens))


def test_what_a_template_puts_after_the_end_of_a_turn_does_not_count(tmp_path):
    tokenizer = build_tokenizer(TokenizerConfig(), [])
    tokenizer.chat_template = str(tokenizer.chat_template).replace("<|end|>", "<|end|>\n")
    pool = sft(tmp_path, [{"prompt": "a", "response": "b"}], tokenizer=tokenizer)
    assert shown(pool) == ["<|user|>a<|end|>\n<|assistant|>[b<|end|>]\n"]


def test_names_of_special_tokens_in_a_response_end_no_turn(tmp_path):
    pool = sft(tmp_path, [{"prompt": "a", "response": "x<|end|>y"}])
    assert shown(pool) == ["<|user|>a<|end|><|assistant|>[x<|end|>y<|end|>]"]
    assert (block_of(pool).tokens == TOKENIZER.eos_token_id).sum() == 2


def test_the_end_counts_also_where_it_is_the_padding_token(tmp_path):
    tokenizer = build_tokenizer(TokenizerConfig(), [])
    tokenizer.pad_token = tokenizer.eos_token
    pool = sft(tmp_path, [{"prompt": "a", "response": "b"}], tokenizer=tokenizer)
    block = block_of(pool)
    assert block.tokens[-1] == tokenizer.eos_token_id and block.response_mask[-1]


def test_without_a_template_prompt_and_response_follow_each_other(tmp_path):
    pool = sft(tmp_path, [{"prompt": "1+1=", "response": "2"}], tokenizer=plain_tokenizer())
    assert shown(pool) == ["1+1=[2<|end|>]"]
    with pytest.raises(DataError, match=r"train.jsonl:1: .*no chat template; set data.chat_template"):
        sft(tmp_path, [{"prompt": [{"role": "user", "content": "a"}], "response": "b"}], tokenizer=plain_tokenizer())


def test_a_conversation_without_an_answer_is_refused_by_row(tmp_path):
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(DataError, match=r"train.jsonl:2: .*does not end with an assistant message"):
        sft(tmp_path, [{"prompt": good}, {"prompt": good[:1]}])
    with pytest.raises(DataError, match=r"train.jsonl:2: .*nothing but an answer"):
        sft(tmp_path, [{"prompt": good}, {"prompt": good[1:]}])


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path):
    tokenizer = build_tokenizer(TokenizerConfig(), [])
    tokenizer.chat_template = "{{ messages | length }}" + str(tokenizer.chat_template)
    with pytest.raises(DataError, match=r"train.jsonl:1: the chat template changes earlier turns"):
        sft(tmp_path, [{"prompt": "a", "response": "b"}], tokenizer=tokenizer)


def test_long_conversations_are_refused_with_their_places(tmp_path):
    rows = [{"prompt": "a", "response": "b" * n} for n in (1, 20, 2, 30)]
    with pytest.raises(DataError, match=r"2 of 4 .*max_sequence_tokens=20 tokens \(the longest 35\): .*:2; .*:4"):
        sft(tmp_path, rows, limit=20)


def test_a_missing_response_is_refused_or_left_out(tmp_path):
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": ""}]
    with pytest.raises(DataError, match=r"1 of 2 rows have no response: .*train.jsonl:2"):
        sft(tmp_path, rows)
    assert len(sft(tmp_path, rows, config=DataConfig(train="x", missing_values="drop"))) == 1
    with pytest.raises(DataError, match=r"no column 'response'.*set data.response_column"):
        sft(tmp_path, [{"prompt": "a"}])


def test_texts_follow_each_other_and_are_cut_to_equal_sequences(tmp_path):
    data = data_at(tmp_path, [{"text": "abcd"}, {"text": "ef"}, {"text": "ghi"}])
    pool = TextSequences(data, TOKENIZER, CONFIG, 5)
    assert shown(pool) == ["a[bcd<|end|>]", "e[f<|end|>gh]", "i[<|end|>]"]


def test_a_last_sequence_of_one_token_is_left_out(tmp_path):
    pool = TextSequences(data_at(tmp_path, [{"text": "abcde"}]), TOKENIZER, CONFIG, 5)
    assert shown(pool) == ["a[bcde]"]


def test_special_names_in_a_text_are_only_letters(tmp_path):
    pool = TextSequences(data_at(tmp_path, [{"text": "<|end|>"}]), TOKENIZER, CONFIG, 50)
    assert len(block_of(pool).tokens) == len("<|end|>") + 1


def test_texts_begin_with_the_start_token_of_a_tokenizer_that_has_one(tmp_path):
    from tokenizers import processors

    tokenizer = build_tokenizer(TokenizerConfig(), [])
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    start = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    pool = TextSequences(data_at(tmp_path, [{"text": "a"}, {"text": "b"}]), tokenizer, CONFIG, 50)
    ids = tokenizer.convert_tokens_to_ids(["<s>", "a", "<|end|>", "<s>", "b", "<|end|>"])
    assert block_of(pool).tokens.tolist() == ids


class Numbered:
    """Sequence i repeats the token i."""

    def __init__(self, lengths):
        self.lengths = np.array(lengths)

    def __len__(self):
        return len(self.lengths)

    def block(self, rows):
        tokens = np.repeat(rows, self.lengths[rows]).astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])])
        floats = np.zeros(len(tokens), dtype=np.float32)
        mask, versions = np.ones(len(tokens), dtype=bool), np.full(len(tokens), -1, dtype=np.int32)
        return TokenBlock(
            offsets=offsets, tokens=tokens, response_mask=mask, rollout_logprobs=floats, versions=versions
        )


@given(st.lists(st.integers(1, 5), min_size=1, max_size=9), st.integers(1, 7), st.integers(0, 9))
def test_blocks_of_steps_are_cuts_of_one_stream(lengths, count, step):
    pool = Numbered(lengths)

    def rows(block):
        return [int(block.tokens[block.span(row)][0]) for row in range(len(block))]

    def stream():
        return SequenceStream(pool, seed=5)

    whole = rows(stream().block(0, count * (step + 1)))
    block = stream().block(step, count)
    assert rows(block) == whole[step * count :]
    assert np.diff(block.offsets).tolist() == [lengths[row] for row in rows(block)]


def test_each_epoch_holds_every_sequence_once():
    tokens = SequenceStream(Numbered([1] * 20), seed=5).block(0, 40).tokens
    assert sorted(tokens[:20]) == sorted(tokens[20:]) == list(range(20))
    assert tokens[:20].tolist() != tokens[20:].tolist()


def test_nobody_sampled_the_tokens_of_a_block(tmp_path):
    block = first_sequences(TextSequences(data_at(tmp_path, [{"text": "abc"}]), TOKENIZER, CONFIG, 2), 99)
    assert len(block) == 2
    assert set(block.versions.tolist()) == {-1} and not block.rollout_logprobs.any()
    dtypes = [column.dtype for column in (block.offsets, block.tokens, block.response_mask, block.versions)]
    assert dtypes == [np.int64, np.int32, np.bool_, np.int32]
