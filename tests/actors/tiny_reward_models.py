"""Small reward models in Hugging Face format, and a slow, obvious answer about them."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from configs.schema.model import TokenizerConfig
from experience.tokenizer import build_tokenizer
from rewards.contract import RewardInput
from tests.actors.tiny_policies import SIZE


def make_reward_model(
    folder: Path, *, architecture: str = "qwen3", num_labels: int = 1, seed: int = 0, **size: int
) -> Path:
    """A sequence classifier with random weights and the character tokenizer, saved to `folder`."""
    tokenizer = build_tokenizer(TokenizerConfig(kind="characters"), ())
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        num_labels=num_labels,
        **(SIZE | size),
    )
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)  # values that differ from text to text
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def value_of(folder: Path, item: RewardInput) -> float:
    """The model's value of one sample, alone, with transformers' own chat template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    if tokenizer.chat_template:
        prompt = list(item.messages) or [{"role": "user", "content": item.prompt}]
        turns = [*prompt, {"role": "assistant", "content": item.response}]
        tokens = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
    else:
        tokens = tokenizer(item.prompt + item.response).input_ids
    return float(model(torch.tensor([tokens])).logits[0, 0])
