"""What one model is trained for, where nothing but the data goes into its loss: imitation, comparison."""

from collections.abc import Mapping
from typing import Any, Protocol

from algorithms.measures import Measures
from algorithms.objective import LossOutput
from experience.records import MiniBatch
from trainers.packed import Packed


class Model(Protocol):
    """A model on its engine, or a frozen one. What it gives for a pack depends on its head."""

    def __call__(self, packed: Packed, *args: Any) -> Any:
        """The forward pass."""
        ...


class Objective(Protocol):
    """One way to train one model. Frozen and small: it travels to each rank."""

    @property
    def needs_reward_head(self) -> bool:
        """The model gives one reward a sequence (a RewardModel), not log-probs of tokens (a PolicyModel)."""
        ...

    @property
    def needs_reference(self) -> bool:
        """The frozen first state of the model is kept, and handed to `loss` and `measure`."""
        ...

    def loss(self, model: Model, packed: Packed, mini_batch: MiniBatch, reference: Model | None) -> LossOutput:
        """This micro-batch's share of the loss of the optimiser step; `mini_batch` has its totals."""
        ...

    def measure(self, model: Model, packed: Packed, reference: Model | None) -> Measures:
        """What is measured on held-out data, without gradients."""
        ...

    def derived(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Further metrics that follow from the reduced ones, of training or of held-out data."""
        ...
