"""The reward model: the body of a causal language model, and one number read at each sequence's last token."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from configs.schema.model import ModelConfig
from experience.tokenizer import stop_token_ids
from trainers.attention import SEGMENTS
from trainers.model import TORCH_DTYPES, check_loaded, hidden_states, load_model
from trainers.packed import Packed

# N sequences, D hidden size


class RewardModel(nn.Module):
    """A sequence classifier with one label that reads packed sequences."""

    def __init__(self, classifier: PreTrainedModel) -> None:
        super().__init__()
        self.classifier = classifier

    @property
    def pretrained(self) -> PreTrainedModel:
        """The model of transformers inside."""
        return self.classifier

    def forward(self, packed: Packed) -> Tensor:
        """The reward of each sequence, [N] float32: its last token's hidden state times the head."""
        own = score_head(self.classifier)(hidden_states(self.classifier, packed)).squeeze(1).float()
        scores = packed.layout.gather(own, packed.num_tokens)
        return scores.index_select(0, packed.cu_seqlens[1:].long() - 1)


def load_classifier(config: ModelConfig, *, seed: int) -> PreTrainedModel:
    """The reward model at `config.path`; or its policy's body under a new head. ValueError where a weight is missing.

    What gives a critic its start too: `base_model` is the body, `score_head` the Linear(D, 1).
    """
    assert config.path is not None
    if not is_classifier(config.path):
        return new_classifier(load_model(config), seed=seed)
    loaded: Any = AutoModelForSequenceClassification.from_pretrained(
        config.path,
        dtype=TORCH_DTYPES[config.dtype],
        attn_implementation=SEGMENTS,
        use_safetensors=None if config.allow_pickle_weights else True,
        trust_remote_code=config.trust_remote_code,
        output_loading_info=True,
    )
    return checked_classifier(*loaded, path=config.path)


def new_classifier(causal_lm: PreTrainedModel, *, seed: int) -> PreTrainedModel:
    """The body of `causal_lm` under a head drawn from the seed, of variance 1 / (D + 1). arXiv:2009.01325, B.1."""
    config = copy.deepcopy(causal_lm.config)
    config.num_labels = 1
    with torch.device("meta"):
        classifier = AutoModelForSequenceClassification.from_config(config, attn_implementation=SEGMENTS)
    # Set on loading, but not on making; loaders choose the class by it.
    classifier.config.architectures = [type(classifier).__name__]
    setattr(classifier, classifier.base_model_prefix, causal_lm.base_model)
    size = classifier.config.hidden_size
    weight = torch.randn(1, size, generator=torch.Generator().manual_seed(seed)) / (size + 1) ** 0.5
    classifier.score = nn.Linear(size, 1, bias=False, device="meta")
    classifier.score.weight = nn.Parameter(weight.to(causal_lm.dtype))
    return classifier.train()


def exported_config(classifier: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """The classifier's config with a padding token that ends no sequence; none where the tokenizer has no other.

    transformers reads the last token that is no padding, which must be the one that was trained.
    """
    config = copy.deepcopy(classifier.config)
    padding = tokenizer.pad_token_id
    config.pad_token_id = None if padding in stop_token_ids(tokenizer) else padding
    return config


def score_head(classifier: PreTrainedModel) -> nn.Linear:
    """Linear(D, 1) without bias."""
    head = classifier.score
    assert isinstance(head, nn.Linear)
    return head


def is_classifier(path: str) -> bool:
    """True where `path` holds a sequence classifier, by its config.json."""
    file = Path(path) / "config.json"
    kinds = json.loads(file.read_text(encoding="utf-8")).get("architectures") if file.is_file() else None
    return bool(kinds) and str(kinds[0]).endswith("ForSequenceClassification")


def checked_classifier(classifier: PreTrainedModel, report: dict[str, Any], *, path: str) -> PreTrainedModel:
    """What `from_pretrained` gives with its loading info; ValueError unless it is a whole reward model."""
    if classifier.config.num_labels != 1:
        raise ValueError(f"{path}: {classifier.config.num_labels} labels; a reward model has num_labels=1")
    check_loaded(report, path)
    return classifier
