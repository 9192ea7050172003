"""One rank's share of a trained model, its gradients and its optimiser."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from torch import distributed as dist

from configs.schema.model import Dtype
from configs.schema.training import OptimizerConfig, TrainerConfig
from metrics import activity
from trainers.deepspeed_config import check_offload, deepspeed_config
from trainers.devices import peak_flops
from trainers.offload import Offloadable, optimizer_tensors
from trainers.schedule import learning_rate
from trainers.zero.buckets import Bucket, gathered, num_elements, weight_bytes
from trainers.zero.group import bound_waits

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What became of one optimiser step. A skipped step changed nothing, on every rank alike."""

    grad_norm: float  # of the whole model, before clipping; not finite when skipped
    learning_rate: float
    skipped: bool


class ZeroEngine:
    """One rank of a model under ZeRO 0 to 3, with AdamW, clipping and the learning-rate schedule.

    Losses are shares of the global mean: the sum over micro-batches and ranks is the loss of the step, so
    nothing here divides by the number of either.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: OptimizerConfig,
        trainer: TrainerConfig,
        *,
        dtype: Dtype,
        total_steps: int,
    ) -> None:
        check_offload(trainer)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.stage = trainer.zero_stage
        self.steps = 0
        self._peak_tflops = trainer.peak_tflops
        self._optimizer_config, self._total_steps = optimizer, total_steps
        trained: Any = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._has_frozen = len(trained) < len(list(module.parameters()))
        module.register_state_dict_post_hook(_drop_frozen)
        self._engine: Any = deepspeed.initialize(
            model=module,
            model_parameters=trained,
            config=deepspeed_config(optimizer, trainer, dtype, num_trained=sum(p.numel() for p in trained)),
        )[0]
        self._states = Offloadable(self._optimizer_tensors, self.device)
        bound_waits(trainer.collective_timeout_seconds)

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return torch.device(self._engine.device)

    def offload(self) -> None:
        """Free the device's memory of the optimiser states; `reload` must come before all but reading the weights."""
        self._states.offload()

    def reload(self) -> None:
        """Bring the optimiser states back to the device."""
        self._states.reload()

    def _optimizer_tensors(self) -> Iterator[Tensor]:
        yield from optimizer_tensors(self._engine.basic_optimizer, self.module.parameters())
        if self.stage == 3:  # whose optimiser knows of nothing before its first step
            yield from self._engine.optimizer.fp32_partitioned_groups_flat
            if (gradients := self._engine.optimizer.grad_partitions_flat_buffer) is not None:
                yield gradients

    @property
    def peak_flops(self) -> float | None:
        """What this rank's device can do at best, in FLOP/s; None where it is unknown, as on a CPU."""
        if self._peak_tflops is not None:
            return self._peak_tflops * 1e12
        return peak_flops(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else None

    @property
    def module(self) -> nn.Module:
        """The wrapped module; under ZeRO-3 its parameters are empty between uses."""
        return self._engine.module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward pass."""
        activity.note("a forward pass")
        return self._engine(*args, **kwargs)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Forward passes inside record no gradients and take no dropout."""
        was_training = self._engine.training
        self._engine.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._engine.train(was_training)

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Accumulate the gradients of one micro-batch; `is_last` ends those of this optimiser step.

        A loss that is not finite makes its gradients NaN. The gradient norm is common to all ranks, so
        that `step` then skips on every rank, whichever one saw the bad loss.
        """
        assert not self._states.is_offloaded, "a rank whose optimiser is offloaded must not train"
        activity.note("a backward pass")
        # DeepSpeed averages over ranks; our losses are shares of a sum.
        loss = loss * self.world_size * torch.where(loss.detach().isfinite(), 1.0, torch.nan)
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self) -> StepReport:
        """Clip, move the weights and drop the gradients; skipped on all ranks when the norm is not finite."""
        activity.note(f"optimiser step {self.steps + 1}")
        rate = learning_rate(self._optimizer_config, self.steps, self._total_steps)
        self.steps += 1
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        if self.stage == 0:
            grad_norm, skipped = self._step_without_zero()
        else:
            self._engine.step()
            grad_norm, skipped = float(self._engine.get_global_grad_norm()), not self._engine.was_step_applied()
        if skipped:
            logger.warning("optimiser step %d skipped on all ranks: its gradients are not finite", self.steps)
        return StepReport(grad_norm=grad_norm, learning_rate=rate, skipped=skipped)

    def _step_without_zero(self) -> tuple[float, bool]:
        """Without ZeRO, DeepSpeed neither reports the norm nor refuses a bad one. Returns (norm, skipped)."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        grad_norm = float(nn.utils.get_total_norm([gradient.float() for gradient in gradients]))
        if not torch.isfinite(torch.tensor(grad_norm)):
            self._engine.zero_grad()
            return grad_norm, True
        self._engine.step()
        return grad_norm, False

    def buckets(self, nbytes: int, *, trained_only: bool = False) -> Iterator[Bucket]:
        """The whole weights, about `nbytes` at a time, under the module's names for them.

        What one layer owns comes in one bucket. Tied parameters come once, under their first name. A bucket is
        valid until the next is asked for; under ZeRO-3 every rank must exhaust the iterator.
        """
        activity.note("gathering the weights")
        parameters = [(n, p) for n, p in self.module.named_parameters() if p.requires_grad or not trained_only]
        yield from gathered(parameters, nbytes, is_partitioned=self.stage == 3)

    @property
    def checkpoint_bytes(self) -> int:
        """Size of what all ranks together save: weights, and Adam's two moments with the float32 master."""
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        return weight_bytes(trained) + 3 * 4 * num_elements(trained)

    def save(self, folder: Path) -> None:
        """Write this rank's shards of the trained weights and of the optimiser into `folder`."""
        assert not self._states.is_offloaded, "a rank whose optimiser is offloaded would save nothing of it"
        activity.note("saving")
        self._engine.save_checkpoint(
            str(folder.parent),
            tag=folder.name,
            client_state={"wutong_steps": self.steps},
            save_latest=False,
            exclude_frozen_parameters=True,
        )

    def load(self, folder: Path, *, is_universal: bool = False) -> None:
        """Take up what `save` wrote into `folder`, on as many ranks; or what `make_universal` made of it, on any.

        The shards are pickles: verify the folder's manifest first (trainers/checkpoint.py).
        """
        activity.note("loading")
        self._engine._config.load_universal_checkpoint = is_universal and self.stage > 0
        path, state = self._engine.load_checkpoint(
            str(folder.parent), tag=folder.name, load_module_strict=not self._has_frozen
        )
        if path is None:
            raise ValueError(f"{folder}: no weights for rank {self.rank} of {self.world_size}")
        self.steps = int(state["wutong_steps"])


def _drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _: Mapping[str, Any]) -> None:
    """Leave frozen weights out of checkpoints. DeepSpeed itself would keep those that are tied, by a second name."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            state.pop(prefix + name, None)
