"""The value model: the body of a language model with a head that gives one number a token."""

# T packed tokens, D hidden size

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainers.model import hidden_states
from trainers.packed import Packed
from trainers.reward_model import score_head


class ValueModel(nn.Module):
    """Predicts before each response token what the rest of its response is worth."""

    def __init__(self, body: PreTrainedModel, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, packed: Packed) -> Tensor:
        """Values, [T] float32 or wider: at the tokens of `response_mask`, made of the tokens before; 0 elsewhere."""
        own = self.head(hidden_states(self.body, packed)).squeeze(-1).float()
        values = packed.layout.gather(own, packed.num_tokens).roll(1)  # from each token to the next
        return torch.where(packed.response_mask, values, 0)


def value_model_of_rewards(classifier: PreTrainedModel, deviation: float = 1.0) -> ValueModel:
    """A reward model's body and its head: every token is worth at first what its text would get as an end.

    InstructGPT, arXiv:2203.02155, starts its value function so. `deviation`: what the model's rewards are divided by
    before a policy learns from them; the head is too.
    """
    body: Any = classifier.base_model
    head = score_head(classifier)
    with torch.no_grad():
        head.weight.div_(deviation)
    return ValueModel(body, head)


def value_model(causal_lm: PreTrainedModel) -> ValueModel:
    """The model's body, and a head that says 0 of everything."""
    body: Any = causal_lm.base_model
    head = nn.Linear(body.config.hidden_size, 1, bias=False, dtype=body.dtype)
    with torch.no_grad():
        head.weight.zero_()
    return ValueModel(body, head)
