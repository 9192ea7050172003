"""What is trained: a checkpoint that exists, or a new model made from a seed."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from configs.schema.base import Section

Architecture = Literal["qwen3", "llama", "qwen2", "qwen3_moe"]
Dtype = Literal["float32", "bfloat16"]
Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class TokenizerConfig(Section):
    """A tokenizer made by the project, for models that start from nothing."""

    kind: Literal["characters", "bpe"] = "characters"
    """`characters`: one token a printable ASCII character; `bpe`: byte-level BPE trained on the training text."""
    vocab_size: int = Field(default=512, ge=300, le=1_000_000)
    """Size of the BPE vocabulary, special tokens included; without effect for `characters`."""


class NewModelConfig(Section):
    """A decoder with random weights, drawn from the run's seed."""

    architecture: Architecture = "qwen3"
    """Which transformers architecture to build."""
    hidden_size: int = Field(default=128, ge=8)
    """Width of the residual stream."""
    intermediate_size: int = Field(default=512, ge=8)
    """Width of the feed-forward layers."""
    num_layers: int = Field(default=4, ge=1)
    """Number of decoder layers."""
    num_heads: int = Field(default=4, ge=1)
    """Attention heads; the head dimension is hidden_size / num_heads."""
    num_kv_heads: int = Field(default=2, ge=1)
    """Key-value heads (grouped-query attention); must divide num_heads."""
    max_position_embeddings: int = Field(default=512, ge=16)
    """Longest sequence the model accepts, in tokens."""
    tie_word_embeddings: bool = True
    """Share the input embedding with the output head."""
    num_experts: int = Field(default=8, ge=2)
    """Experts a layer (qwen3_moe only)."""
    num_experts_per_token: int = Field(default=2, ge=1)
    """Experts that each token is routed to (qwen3_moe only)."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """The tokenizer to make for it."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "NewModelConfig":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}")
        return self


class LoraConfig(Section):
    """Low-rank adapters: W + alpha / rank * B A with W frozen, so that only A and B are trained (arXiv:2106.09685)."""

    rank: int = Field(default=16, ge=1, le=512)
    """Rows of A and columns of B."""
    alpha: int = Field(default=32, ge=1)
    """Adapters count alpha / rank times."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that training drops."""
    target_modules: tuple[Projection, ...] | None = None
    """Projections of attention and feed-forward layers to adapt; none: all that the model has."""

    @model_validator(mode="after")
    def _adapts_something(self) -> "LoraConfig":
        if self.target_modules == ():
            raise ValueError("target_modules=[] adapts nothing; name some projections, or leave it out for all")
        return self

    @property
    def projections(self) -> tuple[str, ...]:
        """The names of the layers to adapt."""
        return self.target_modules or get_args(Projection)

    @property
    def scaling(self) -> float:
        """What the product B A is multiplied with."""
        return self.alpha / self.rank


class ModelConfig(Section):
    """The policy's weights and how they are held while training."""

    path: str | None = None
    """A folder in Hugging Face format, or a name on the hub (loaded when there is a network)."""
    new: NewModelConfig | None = None
    """Make a new model instead of loading one."""
    dtype: Dtype = "float32"
    """Precision of the forward and backward pass."""
    lora: LoraConfig | None = None
    """Train low-rank adapters beside the frozen weights, instead of the weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    trust_remote_code: bool = False
    """Allow code from the checkpoint to run. Only for checkpoints whose code you have read."""
    allow_pickle_weights: bool = False
    """Accept pytorch_model.bin (a pickle) when there are no safetensors."""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelConfig":
        if (self.path is None) == (self.new is None):
            raise ValueError("set exactly one of model.path (an existing checkpoint) and model.new (random weights)")
        return self
