"""Small policies in Hugging Face format, and slow, obvious answers about them."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from configs.schema.model import TokenizerConfig
from experience.tokenizer import build_tokenizer
from trainers.checkpoint_tensors import checkpoint_tensors

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}  # of a mixture
SIZE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 256,
}


def make_policy(
    folder: Path, *, architecture: str = "qwen3", tied: bool = True, seed: int = 0, num_key_value_heads: int = 1
) -> Path:
    """A model with random weights and the character tokenizer, saved to `folder`."""
    tokenizer = build_tokenizer(TokenizerConfig(kind="characters"), ())
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        **SIZE | {"num_key_value_heads": num_key_value_heads},
        **(EXPERTS if architecture.endswith("_moe") else {}),
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)  # a peaked distribution: near ties would make "greedy" a matter of rounding
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load_policy(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def named_tensors(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    """The tensors that a trainer publishes: each once, under the checkpoint's names."""
    return checkpoint_tensors(model.named_parameters())


@torch.no_grad()
def logprobs_of(model: PreTrainedModel, tokens: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """[T - 1]: log-prob of every token but the first, given those before it."""
    ids = torch.from_numpy(tokens.astype(np.int64))
    logits = model(ids[None]).logits[0, :-1].float() / temperature
    return logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0].numpy()


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: np.ndarray, max_tokens: int, stop: int) -> list[int]:
    """The most probable continuation, found without any cache."""
    tokens = prompt.tolist()
    for _ in range(max_tokens):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == stop:
            break
    return tokens[len(prompt) :]
