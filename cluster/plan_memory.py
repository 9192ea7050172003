"""Bytes that one rank of a trainer holds, part by part and phase by phase.

DeepSpeed 0.19's ZeRO as trainers/zero/ sets it up, transformers' decoders with packed attention, and the fused
head of trainers/logprobs.py. What an allocator keeps beyond its tensors comes on top.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.plan_sizes import ModelSizes
from configs.schema.model import Dtype
from trainers.deepspeed_config import REDUCE_BUCKET_ELEMENTS

BYTES: Mapping[Dtype, int] = {"float32": 4, "bfloat16": 2}
_FLOAT = 4
_LIVE_ELEMENTS = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters
_SUB_GROUP_ELEMENTS = 1_000_000_000  # DeepSpeed's sub_group_size: what stage 3 updates at a time
_CHUNK_ELEMENTS = {False: 2**22, True: 2**26}  # logits at a time (trainers/logprobs.py), without and with a GPU
_CHUNK_COPIES = 3  # logits, probabilities and their gradient
_PACK_BYTES = 200  # a token's columns, log-probs and losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What is held at the same time, by the name of each part; in bytes."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One model on one of `num_ranks` ranks, under a ZeRO stage. `num_trained`: 0 for a frozen one."""

    sizes: ModelSizes
    dtype: Dtype
    stage: int
    num_ranks: int
    num_trained: int
    has_gpu: bool
    offloads_optimizer: bool = False
    offloads_parameters: bool = False

    @property
    def weights(self) -> int:
        """Held all the time."""
        whole = (self.sizes.num_parameters + self._num_added) * BYTES[self.dtype]
        return -(-whole // self.num_ranks) if self.stage == 3 else whole

    @property
    def master(self) -> int:
        """float32 weights that the optimiser moves: a copy also of float32 weights, but for no ZeRO."""
        if self.dtype == "float32" and self.stage == 0:
            return 0
        return _FLOAT * self._partition

    @property
    def moments(self) -> int:
        """Adam's two."""
        return 2 * _FLOAT * self._partition

    @property
    def gradient_buffers(self) -> int:
        """What stage 3 holds for gradients all the time: its partition and the bucket."""
        if self.stage != 3 or not self.num_trained:
            return 0
        return BYTES[self.dtype] * (self._partition + self._bucket_elements)

    @property
    def gradients(self) -> int:
        """At most, during a backward pass, beyond `gradient_buffers`."""
        width = BYTES[self.dtype]
        if self.stage == 0:
            return self.num_trained * (width if self.dtype == "float32" else width + _FLOAT)
        if self.stage == 1:
            # On a CPU the bucket's pages come as gradients move into it; on a GPU it is there whole.
            return _FLOAT * (self.num_trained + (self._bucket_elements if self.has_gpu else 0))
        if self.stage == 2:
            return _FLOAT * self._partition + (width * self._bucket_elements if self.has_gpu else 0)
        return 0

    @property
    def gathered(self) -> int:
        """Weights of others that stage 3 holds while a pass runs."""
        if self.stage != 3:
            return 0
        return (
            min(self.sizes.num_parameters * (self.num_ranks - 1) // self.num_ranks, _LIVE_ELEMENTS) * BYTES[self.dtype]
        )

    @property
    def stepping(self) -> int:
        """What the optimiser step makes: the partition's gradients, and torch's Adam two copies more on a CPU."""
        moved = min(self._partition, _SUB_GROUP_ELEMENTS) if self.stage == 3 else self._partition
        kept = self.num_trained if self.stage == 0 else moved
        return _FLOAT * (kept + (0 if self.has_gpu else 2 * moved))

    def held(self, name: str) -> dict[str, int]:
        """Parts that a device holds all the time."""
        parts = {f"{name} weights": 0 if self.offloads_parameters else self.weights}
        if self.num_trained:
            states = self.master + self.moments
            parts[f"{name} optimiser"] = 0 if self.offloads_optimizer else states
            parts[f"{name} gradient buffers"] = self.gradient_buffers
        return {part: size for part, size in parts.items() if size}

    @property
    def offloaded(self) -> int:
        """Host bytes of what the device does not hold."""
        optimizer = self.master + self.moments + _FLOAT * self._partition if self.offloads_optimizer else 0
        return optimizer + (self.weights if self.offloads_parameters else 0)

    @property
    def _num_added(self) -> int:
        """Adapters, which are trained beside all other weights."""
        return self.num_trained if 0 < self.num_trained < self.sizes.num_parameters // 2 else 0

    @property
    def _partition(self) -> int:
        """Elements that this rank's optimiser moves."""
        is_whole = self.stage == 0 and self.dtype == "float32"
        return self.num_trained if is_whole else -(-self.num_trained // self.num_ranks)

    @property
    def _bucket_elements(self) -> int:
        return min(REDUCE_BUCKET_ELEMENTS, self.num_trained)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward and backward pass of at most `num_tokens` tokens on a rank, of which `num_scored` are scored."""

    sizes: ModelSizes
    dtype: Dtype
    num_tokens: int
    num_scored: int
    checkpointing: bool
    has_gpu: bool

    @property
    def activations(self) -> int:
        """Kept from the forward for the backward pass."""
        width = BYTES[self.dtype]
        layers = self.sizes.num_hidden_layers
        layer = self._layer_bytes
        kept = layers * self.sizes.hidden_size * width + layer if self.checkpointing else layers * layer
        ends = (self._norm_bytes + width) * self.sizes.hidden_size + _PACK_BYTES
        return self.num_tokens * (kept + ends)

    @property
    def head(self) -> int:
        """What the fused head makes in its backward pass: one chunk's logits, and the gradient of its weight."""
        return self.logits + self.sizes.head_parameters * _FLOAT + self._widened_head

    @property
    def logits(self) -> int:
        """One chunk's, with what is made of them."""
        rows = max(1, _CHUNK_ELEMENTS[self.has_gpu] // self.sizes.vocab_size)
        return _CHUNK_COPIES * _FLOAT * min(rows, self.num_scored) * self.sizes.vocab_size

    @property
    def scoring(self) -> int:
        """A pass without gradients: what one layer makes, and one chunk of logits."""
        return self.num_tokens * (self._layer_bytes + _PACK_BYTES) + self.logits + self._widened_head

    @property
    def _widened_head(self) -> int:
        """CPUs multiply in float32 (trainers/logprobs.py)."""
        return self.sizes.head_parameters * _FLOAT if self.dtype == "bfloat16" and not self.has_gpu else 0

    @property
    def _norm_bytes(self) -> int:
        """A norm keeps its input in float32, and what it made of it, with and without its weight."""
        return _FLOAT + 2 * BYTES[self.dtype]

    @property
    def _layer_bytes(self) -> int:
        """Of one token in one layer."""
        sizes, width = self.sizes, BYTES[self.dtype]
        queries, keys = sizes.query_size, sizes.key_value_size
        head_norms = (_FLOAT + width) * (queries + keys) if sizes.has_head_norms else 0
        # Queries, keys, values and what attention makes of them; without FlashAttention that is copied once.
        attention = width * (2 * queries + 2 * keys + (0 if self.has_gpu else queries))
        return 2 * self._norm_bytes * sizes.hidden_size + head_norms + attention + width * self._feed_forward_numbers

    @property
    def _feed_forward_numbers(self) -> int:
        """Gate, its activation, up, and their product; in a mixture once for each expert, with the expert's input."""
        sizes = self.sizes
        if sizes.num_experts is None:
            return 4 * sizes.intermediate_size
        expert = 4 * sizes.moe_intermediate_size + 2 * sizes.hidden_size
        return sizes.num_experts_per_tok * expert + sizes.num_experts


def trained_phases(name: str, share: Share, work: Pass, num_passes: int, beside: Mapping[str, int]) -> list[Phase]:
    """The phases of training one model. `beside`: what else the device holds all the time, by part."""
    held = {**beside, **share.held(name)}
    gathered = {"gathered weights": share.gathered} if share.gathered else {}
    # In a first pass gradients come as activations go; a later one finds those of the passes before.
    passing = {"activations": work.activations, "head and logits": work.head}
    if num_passes > 1 or share.stage > 1:
        backward = {**held, **gathered, "gradients": share.gradients, **passing}
    else:
        before, after = sum(passing.values()), share.gradients
        backward = {**held, **gathered, **(passing if before > after else {"gradients": after})}
    return [
        Phase(name=f"{name}: forward and backward", parts=backward),
        Phase(name=f"{name}: optimiser step", parts={**held, "gradients and step": share.stepping}),
    ]


def scoring_phase(name: str, share: Share, work: Pass, beside: Mapping[str, int]) -> Phase:
    """A pass without gradients of a model whose weights are among `beside`."""
    gathered = {"gathered weights": share.gathered} if share.gathered else {}
    return Phase(name=f"{name}: scoring", parts={**beside, **gathered, "one layer and logits": work.scoring})
