"""The trained language model: made from a seed or loaded, and wrapped to score packed sequences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from configs.schema.model import Dtype, ModelConfig, NewModelConfig
from trainers.attention import SEGMENTS, attention_arguments, attention_for
from trainers.logprobs import LogProbHead
from trainers.model_files import check_heads
from trainers.packed import Packed, pack_tokens
from trainers.parallel import ALONE, Layout

# T tokens, S of them on this rank, D hidden size

TORCH_DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_NAME_PREFIXES = ("causal_lm.", "classifier.")

# Relative difference that rounding may make between a packed and a lone sequence; a leak makes 0.1 or more.
_PACKING_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """The tokenizer's special ids that a model's config names; None: the tokenizer has no such token."""

    bos: int | None
    eos: int
    pad: int


class PolicyModel(nn.Module):
    """A causal language model that scores packed sequences: a body (hidden states) and a head (log-probs)."""

    def __init__(self, causal_lm: PreTrainedModel) -> None:
        super().__init__()
        head = causal_lm.get_output_embeddings()
        assert isinstance(head, nn.Linear), f"{type(causal_lm).__name__} has no linear output head"
        causal_lm.set_output_embeddings(LogProbHead(head))
        self.causal_lm = causal_lm

    @property
    def pretrained(self) -> PreTrainedModel:
        """The model of transformers inside."""
        return self.causal_lm

    @property
    def head(self) -> LogProbHead:
        """What turns hidden states into log-probs."""
        head = self.causal_lm.get_output_embeddings()
        assert isinstance(head, LogProbHead)
        return head

    def forward(self, packed: Packed, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies, [T] each, at the tokens of `response_mask`; 0 elsewhere.

        At t they are those of the distribution that token t was drawn from: logits / temperature at t - 1.
        """
        layout = packed.layout
        # Place t tells of token t + 1. A pack's last token has none after it, and its first is never counted.
        places = layout.own(packed.response_mask.roll(-1)).nonzero().squeeze(1)
        targets = layout.own(packed.input_ids.roll(-1))[places]
        hidden = hidden_states(self.causal_lm, packed)
        scores = self.head(hidden.index_select(0, places), targets, temperature)
        nowhere = scores[0].new_zeros(len(hidden))
        logprobs, entropies = (
            layout.gather(nowhere.index_put((places,), score), packed.num_tokens).roll(1) for score in scores
        )
        return logprobs, entropies


def hidden_states(causal_lm: PreTrainedModel, packed: Packed) -> Tensor:
    """The body's last hidden states of the rank's own tokens, [S, D]: what a head of any kind reads.

    Without sequence parallelism the own tokens are all, S = T, and what sequences begin with alike is computed once.
    `packed.layout.gather` makes what a head says of them, [S, ...], the whole pack's [T, ...]. Every rank that shares
    the pack must enter both.
    """
    arguments = attention_arguments(packed, causal_lm.config._attn_implementation or SEGMENTS)
    is_alone = packed.layout.size == 1
    tokens, places = (
        states[packed.distinct] if is_alone else packed.layout.own(states)
        for states in (packed.input_ids, packed.position_ids)
    )
    # A mask or a cache would make transformers take the pack for one sequence, without a word.
    output = causal_lm.base_model(
        input_ids=tokens[None], position_ids=places[None], attention_mask=None, use_cache=False, **arguments
    )
    states = output.last_hidden_state[0]
    return states.index_select(0, packed.distinct_ids) if is_alone else states


def checkpoint_name(parameter_name: str) -> str:
    """The name that a parameter of a PolicyModel or a RewardModel has in a Hugging Face checkpoint."""
    for prefix in _NAME_PREFIXES:
        parameter_name = parameter_name.removeprefix(prefix)
    return parameter_name


def new_model(
    config: NewModelConfig, *, vocab_size: int, seed: int, tokens: SpecialTokens, dtype: Dtype
) -> PreTrainedModel:
    """A causal language model with random weights, which depend on the arguments alone."""
    architecture = AutoConfig.for_model(
        config.architecture,
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.hidden_size // config.num_heads,
        max_position_embeddings=config.max_position_embeddings,
        tie_word_embeddings=config.tie_word_embeddings,
        bos_token_id=tokens.bos,
        eos_token_id=tokens.eos,
        pad_token_id=tokens.pad,
        **_expert_sizes(config),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(architecture, attn_implementation=SEGMENTS, dtype=torch.float32)
    # Set on loading, but not on making; without it vLLM takes an export for an embedding model.
    model.config.architectures = [type(model).__name__]
    return model.to(TORCH_DTYPES[dtype])


def _expert_sizes(config: NewModelConfig) -> dict[str, int]:
    if config.architecture != "qwen3_moe":
        return {}
    return {
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_token,
        "moe_intermediate_size": config.intermediate_size,
    }


def load_model(config: ModelConfig) -> PreTrainedModel:
    """The causal language model at `config.path`, to be trained; ValueError if a weight is missing or misshapen."""
    assert config.path is not None
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        config.path,
        dtype=TORCH_DTYPES[config.dtype],
        attn_implementation=SEGMENTS,
        use_safetensors=None if config.allow_pickle_weights else True,
        trust_remote_code=config.trust_remote_code,
        output_loading_info=True,
    )
    model, report = loaded
    check_loaded(report, f"model.path={config.path}")
    drop_nothing(model)
    return model.train()  # transformers loads for evaluation, in which checkpointing recomputes nothing, silently


def drop_nothing(model: nn.Module) -> None:
    """Switch the model's own dropout off: a sample's log-probs would else not be those of the policy that drew it."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # type: ignore[assignment]


def check_loaded(report: Mapping[str, Any], where: str) -> None:
    """ValueError unless `from_pretrained` found every weight; `report` is its loading info."""
    # transformers only warns, and goes on with random weights in their place.
    wrong = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if wrong:
        raise ValueError(f"{where}: weights missing or of the wrong shape: {', '.join(wrong[:5])}")


def place(model: PreTrainedModel, device: torch.device) -> None:
    """Move the model to the device, and let it use the fastest packed attention that runs there."""
    model.to(device)  # type: ignore[arg-type]
    model.set_attn_implementation(attention_for(device, model.dtype))


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Recompute activations in the backward pass (non-reentrant: hooks of partitioned weights need it)."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def check_packing(model: PreTrainedModel) -> None:
    """Raise RuntimeError unless sequences have the same hidden states in a pack as alone."""
    sequences = _probe_sequences(model)
    alone = [_probe(model, [tokens], ALONE) for tokens in sequences]
    difference = _difference(_probe(model, sequences, ALONE), torch.cat(alone))
    if difference is not None:
        raise RuntimeError(
            f"{type(model).__name__} with attn_implementation={model.config._attn_implementation!r} "
            f"mixes packed sequences (hidden states differ by {difference:.1e}); training would be wrong"
        )


def check_sharing(model: PreTrainedModel, layout: Layout) -> None:
    """Raise RuntimeError unless the ranks of `layout`, which all enter, find together what each finds alone."""
    if layout.size == 1:
        return
    check_heads(model.config.num_attention_heads, layout.size)
    sequences = _probe_sequences(model)
    difference = _difference(_probe(model, sequences, layout), _probe(model, sequences, ALONE))
    if difference is not None:
        raise RuntimeError(
            f"trainer.sequence_parallel_size={layout.size}: in {type(model).__name__} a token sees its own "
            f"rank's tokens only (hidden states differ by {difference:.1e}); set it to 1"
        )


def _probe_sequences(model: PreTrainedModel) -> list[list[int]]:
    """Of several lengths, some of which begin alike, and two of which are the same."""
    vocab_size = model.config.vocab_size
    own = [[(7 * place + 3 * length) % vocab_size for place in range(length)] for length in (5, 9, 3, 9)]
    return [*own, own[1][:4], [*own[1][:6], *own[0]]]


@torch.no_grad()
def _probe(model: PreTrainedModel, sequences: list[list[int]], layout: Layout) -> Tensor:
    packed = pack_tokens(sequences).to(next(model.parameters()).device).over(layout)
    return layout.gather(hidden_states(model, packed), packed.num_tokens)


def _difference(found: Tensor, expected: Tensor) -> float | None:
    """The relative difference; None where it is rounding."""
    difference = float((found.float() - expected.float()).norm() / expected.float().norm())
    return None if difference <= _PACKING_TOLERANCE[found.dtype] else difference
