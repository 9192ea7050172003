import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from configs.schema import TokenizerConfig
from experience.tokenizer import CHARACTERS, build_tokenizer, load_tokenizer, special_token_ids, stop_token_ids

TEXTS = [f"{n}+{3 * n}={4 * n}\nthe number {n} is not the last one" for n in range(100)]
CHARACTER_TOKENIZER = build_tokenizer(TokenizerConfig(), TEXTS)
BPE_TOKENIZER = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=320), TEXTS)


def bare_tokenizer(*, words=("a", "b", "<|user|>"), **special):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*words, *special.values()))}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@given(st.text(alphabet=CHARACTERS))
def test_characters_round_trip_one_token_each(text):
    ids = CHARACTER_TOKENIZER(text, split_special_tokens=True).input_ids
    assert len(ids) == len(text)
    assert CHARACTER_TOKENIZER.decode(ids) == text


@settings(deadline=None)
@given(st.text())
def test_bpe_round_trips_any_text(text):
    text = text.encode("utf-8", "ignore").decode()
    assert BPE_TOKENIZER.decode(BPE_TOKENIZER(text, split_special_tokens=True).input_ids) == text


@pytest.mark.parametrize("tokenizer", [CHARACTER_TOKENIZER, BPE_TOKENIZER])
def test_a_saved_tokenizer_comes_back_equal(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    chat = [{"role": "user", "content": "1+1=?"}, {"role": "assistant", "content": "2"}]
    assert loaded.apply_chat_template(chat, tokenize=True) == tokenizer.apply_chat_template(chat, tokenize=True)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.pad_token, loaded.eos_token) == ("<|pad|>", "<|end|>")
    assert stop_token_ids(loaded) == stop_token_ids(tokenizer) == (1,)


def test_the_chat_template_has_one_token_for_each_role_and_turn_end():
    chat = [{"role": "user", "content": "1"}]
    text = str(CHARACTER_TOKENIZER.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
    assert CHARACTER_TOKENIZER.tokenize(text) == ["<|user|>", "1", "<|end|>", "<|assistant|>"]


def test_the_vocabulary_of_bpe_has_the_size_asked_for():
    assert len(BPE_TOKENIZER) == 320


def test_a_character_that_the_tokenizer_lacks_is_named():
    with pytest.raises(ValueError, match=r"no token for 'é' \(text 1\).*kind=bpe"):
        build_tokenizer(TokenizerConfig(), ["ok", "café"])


def test_a_missing_pad_token_is_taken_from_the_vocabulary(tmp_path, caplog):
    bare_tokenizer(words=("a", "<pad>"), eos_token="</s>").save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert load_tokenizer(tmp_path).pad_token == "<pad>"
    assert "has no pad token; using '<pad>'" in caplog.text


def test_without_any_pad_token_the_end_token_serves(tmp_path):
    bare_tokenizer(eos_token="</s>").save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == "</s>"


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    bare_tokenizer(pad_token="<pad>").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no eos_token"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="no tokenizer could be loaded"):
        load_tokenizer(tmp_path)


def test_a_chat_template_file_replaces_the_tokenizers(tmp_path):
    CHARACTER_TOKENIZER.save_pretrained(tmp_path)
    (tmp_path / "my.jinja").write_text("{{ messages[0]['content'] }}!")
    loaded = load_tokenizer(tmp_path, chat_template=str(tmp_path / "my.jinja"))
    assert loaded.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x!"
    with pytest.raises(ValueError, match=r"data.chat_template=.*cannot be read"):
        load_tokenizer(tmp_path, chat_template=str(tmp_path / "absent.jinja"))


def test_the_end_of_a_turn_stops_a_response_beside_the_end_of_sequence():
    tokenizer = bare_tokenizer(eos_token="</s>", unk_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} <end> {% endfor %}"
    end_of_turn = tokenizer.convert_tokens_to_ids("<end>")
    assert stop_token_ids(tokenizer) == (tokenizer.eos_token_id, end_of_turn)
    assert end_of_turn in special_token_ids(tokenizer)
