"""Promises 6 and 7: pickled weights and a checkpoint's own code run nothing, and are read only where a key says so."""

import json
from pathlib import Path

import pytest
import torch

from configs.schema import ModelConfig
from experience.tokenizer import load_tokenizer
from tests.actors.tiny_policies import make_policy
from tests.security.test_checkpoint_trust import Marker
from trainers.model import load_model
from trainers.model_files import check_model

CODE = "from pathlib import Path\nPath({marker!r}).touch()\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_policy(tmp_path / "model")
    return tmp_path / "model"


def test_a_pickle_for_weights_runs_nothing_even_where_pickles_are_allowed(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save(Marker(tmp_path / "marker"), model / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled weights can run code when loaded"):
        check_model(ModelConfig(path=str(model)))
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        load_model(ModelConfig(path=str(model)))
    with pytest.raises(Exception, match="Weights only load failed"):
        load_model(ModelConfig(path=str(model), allow_pickle_weights=True))
    assert not (tmp_path / "marker").exists()


@pytest.fixture
def with_code(model: Path, tmp_path: Path) -> Path:
    """A checkpoint that brings a model and a tokenizer class of its own."""
    for file, kinds in {"config.json": ("AutoConfig", "AutoModelForCausalLM"), "tokenizer_config.json": ()}.items():
        config = json.loads((model / file).read_text())
        config["auto_map"] = dict.fromkeys(kinds, "modeling_mine.Mine") or {
            "AutoTokenizer": ["modeling_mine.Mine", None]
        }
        config |= {"model_type": "mine"} if kinds else {"tokenizer_class": "Mine"}
        (model / file).write_text(json.dumps(config))
    (model / "modeling_mine.py").write_text(CODE.format(marker=str(tmp_path / "marker")))
    return model


def test_a_checkpoints_own_code_does_not_run_unasked(with_code: Path, tmp_path: Path) -> None:
    config = ModelConfig(path=str(with_code))
    assert not config.trust_remote_code
    with pytest.raises(ValueError, match=r"needs code of the checkpoint's own \(modeling_mine\.py\)"):
        check_model(config)
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(config)
    with pytest.raises(ValueError, match="no tokenizer could be loaded"):
        load_tokenizer(with_code)
    assert not (tmp_path / "marker").exists()


def test_code_that_could_change_on_the_hub_is_not_trusted(with_code: Path) -> None:
    config = json.loads((with_code / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "them/repo--modeling_mine.Mine"}
    (with_code / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"takes its code from the hub \(them/repo\), where it can change"):
        check_model(ModelConfig(path=str(with_code), trust_remote_code=True))
    with pytest.raises(ValueError, match=r"them/repo with model\.trust_remote_code: .* set model\.path to the folder"):
        check_model(ModelConfig(path="them/repo", trust_remote_code=True))
