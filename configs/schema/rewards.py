"""Which rewards score a response, and the limits of the processes that run them."""

from pydantic import Field

from configs.schema.base import Section


class RewardSpec(Section):
    """One reward of a run."""

    use: str
    """A built-in reward (`wutong reward list`), or `path/to/file.py:function`."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Factor in the sum of rewards."""
    args: dict[str, object] = Field(default_factory=dict)
    """Keyword arguments for the reward."""


class RewardPoolConfig(Section):
    """The processes that run rule rewards."""

    num_processes: int = Field(default=1, ge=1)
    """Worker processes."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    """Wall-clock limit of one call."""
    memory_gib: float = Field(default=2.0, gt=0)
    """Address-space limit of one process."""
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    """The run stops when more than this share of the scores of a step fail."""
