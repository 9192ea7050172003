import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from configs.schema import ModelConfig, NewModelConfig
from trainers.model_files import check_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "vocab_size": 10}))
    save_file({"model.embed_tokens.weight": torch.zeros(10, 4)}, tmp_path / "model.safetensors")
    vocab = {"model": {"vocab": {"a": 0, "b": 8}}, "added_tokens": [{"id": 9, "content": "<pad>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocab))
    return tmp_path


def check(folder: Path, **options: Any) -> None:
    check_model(ModelConfig(path=str(folder), **options))


def test_a_sound_folder_passes(folder: Path) -> None:
    check(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name):
        check(folder)


def test_a_path_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"model\.path=\./nowhere/at/all: not a folder"):
        check_model(ModelConfig(path="./nowhere/at/all"))


def test_a_hub_name_that_is_not_cached_is_refused_offline(tmp_path: Path) -> None:
    # The hub's client reads its environment once, at import: hence a process of its own.
    code = "from configs.schema import ModelConfig; from trainers.model_files import check_model; "
    code += "check_model(ModelConfig(path='nobody/nothing'))"
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "model.path=nobody/nothing: no such folder, and the hub does not give it" in ran.stderr


def test_a_config_that_is_not_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not JSON"):
        check(folder)


@pytest.mark.parametrize("kept", [0, 7, 20, -1])
def test_truncated_weights_are_named_with_sizes(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=rf"model\.safetensors: .*{len(whole[:kept])}"):
        check(folder)


def test_a_shard_named_by_the_index_must_exist(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors is missing"):
        check(folder)


def test_pickled_weights_need_a_key(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model\.allow_pickle_weights"):
        check(folder)
    check(folder, allow_pickle_weights=True)


def test_remote_code_needs_a_key_and_its_files_are_named(folder: Path) -> None:
    config = {"model_type": "mine", "vocab_size": 10, "auto_map": {"AutoModel": "modeling_mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"modeling_mine\.py.*model\.trust_remote_code"):
        check(folder)
    check(folder, trust_remote_code=True)


def test_an_unknown_architecture_lists_the_choices(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 10}))
    with pytest.raises(ValueError, match=r"'bert'.*choose one of qwen3, llama, qwen2, qwen3_moe"):
        check(folder)


def test_a_tokenizer_larger_than_the_model_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": 10, "content": "<pad>"}]}))
    with pytest.raises(ValueError, match=r"token id is 10.*vocab_size is 10"):
        check(folder)


def test_an_embedding_of_another_size_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "vocab_size": 11}))
    with pytest.raises(ValueError, match=r"vocab_size=11, but model\.embed_tokens\.weight has 10 rows"):
        check(folder)


def test_odd_heads_of_a_new_model_are_refused() -> None:
    with pytest.raises(ValueError, match="heads of 5"):
        check_model(ModelConfig(new=NewModelConfig(hidden_size=20, num_heads=4)))


def test_the_check_imports_no_torch() -> None:
    code = "import sys, trainers.model_files; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_heads_that_ranks_can_not_share_are_refused_before_anything_starts() -> None:
    new = NewModelConfig(hidden_size=48, num_heads=6, num_kv_heads=2)
    check_model(ModelConfig(new=new), sequence_parallel_size=3)
    with pytest.raises(ValueError, match=r"sequence_parallel_size=4: the model's 6 .* choose one of 1, 2, 3, 6"):
        check_model(ModelConfig(new=new), sequence_parallel_size=4)


def test_heads_that_an_engines_devices_can_not_share_are_refused_before_anything_starts() -> None:
    new = NewModelConfig(hidden_size=96, num_heads=12, num_kv_heads=2)
    for size in (1, 2, 4, 6, 12):  # beyond 2 each key-value head is on several
        check_model(ModelConfig(new=new), tensor_parallel_size=size)
    told = r"tensor_parallel_size=3: the model's 12 attention heads and 2 .* choose one of 1, 2, 4, 6, 12"
    with pytest.raises(ValueError, match=told):
        check_model(ModelConfig(new=new), tensor_parallel_size=3)
