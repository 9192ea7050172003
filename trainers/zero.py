"""The ZeRO engine: one rank's share of a model, its gradients and its optimiser, by DeepSpeed.

The only file that imports deepspeed. Every method is entered by all ranks together, in the same order.
"""

import datetime
import logging
import os
import shutil
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.checkpoint import ds_to_universal
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import distributed_c10d

from configs.schema.model import Dtype
from configs.schema.training import OptimizerConfig, TrainerConfig
from metrics import activity
from trainers.deepspeed_config import check_offload, deepspeed_config
from trainers.devices import peak_flops
from trainers.schedule import learning_rate

logger = logging.getLogger(__name__)

Bucket = Sequence[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What became of one optimiser step. A skipped step changed nothing, on every rank alike."""

    grad_norm: float  # of the whole model, before clipping; not finite when skipped
    learning_rate: float
    skipped: bool


def join_process_group(config: TrainerConfig, listener: int | None = None) -> None:
    """Meet the other ranks named by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment.

    `listener`: for rank 0, the descriptor of a socket that is bound to MASTER_PORT, which nobody can take meanwhile.
    """
    activity.note("meeting the other ranks")
    torch.set_num_threads(config.threads_per_rank)
    if not torch.cuda.is_available():
        # DeepSpeed would compile a shared-memory collective with g++ here; gloo does the work without it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    timeout = datetime.timedelta(seconds=config.collective_timeout_seconds)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(  # type: ignore[reportPrivateImportUsage]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        size,
        is_master=rank == 0,
        timeout=timeout,
        master_listen_fd=listener,
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False)


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
        _bound_waits(trainer.collective_timeout_seconds)

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return torch.device(self._engine.device)

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
        yield from _buckets(parameters, nbytes, is_partitioned=self.stage == 3)

    @property
    def checkpoint_bytes(self) -> int:
        """Size of what all ranks together save: weights, and Adam's two moments with the float32 master."""
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        return _weight_bytes(trained) + 3 * 4 * _num_elements(trained)

    def save(self, folder: Path) -> None:
        """Write this rank's shards of the trained weights and of the optimiser into `folder`."""
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


def make_universal(shards: Path, target: Path) -> None:
    """Rewrite what the ranks of an engine saved, so that any number of ranks can load it. One process does it alone.

    The shards are pickles: verify their manifest first (trainers/checkpoint.py).
    """
    if not any(shards.glob("*optim_states.pt")):
        # Without ZeRO every rank holds the whole, and any number can load it as it is.
        shutil.copytree(shards, target)
        return
    ds_to_universal.main(
        Namespace(
            input_folder=str(shards),
            output_folder=str(target),
            num_extract_workers=1,  # more would be forks of a process that holds a model
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,  # asks for no more than what every checkpoint of ours has
        )
    )


class FrozenModel:
    """One rank of a model that is never trained, partitioned only where the trained one is (ZeRO-3)."""

    def __init__(self, module: nn.Module, trainer: TrainerConfig, *, dtype: Dtype) -> None:
        module.requires_grad_(False).eval()
        self._is_partitioned = trainer.zero_stage == 3
        self._module = module
        self._model: Any = module
        if self._is_partitioned:
            config = deepspeed_config(None, trainer, dtype)
            # Before anything is moved: the whole of it may not fit the device.
            deepspeed.zero.Init(module=module, config_dict_or_path=config)
            for buffer in module.buffers():
                buffer.data = buffer.data.to(_device())
            self._model = deepspeed.initialize(model=module, config=config)[0]
            _bound_waits(trainer.collective_timeout_seconds)
        else:
            module.to(_device())

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return _device()

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward pass, without gradients."""
        return self._model(*args, **kwargs)

    @torch.no_grad()
    def load(self, buckets: Iterable[Bucket]) -> None:
        """Take over the weights of another model with the same names; all ranks enter with the same buckets."""
        own = dict(self._module.named_parameters())
        for bucket in buckets:
            parameters = [own[name] for name, _ in bucket]
            with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0, enabled=self._is_partitioned):
                for parameter, (_, tensor) in zip(parameters, bucket, strict=True):
                    parameter.copy_(tensor)

    @property
    def checkpoint_bytes(self) -> int:
        """Size of its weights."""
        return _weight_bytes(list(self._module.parameters()))

    def buckets(self, nbytes: int) -> Iterator[Bucket]:
        """See `ZeroEngine.buckets`."""
        yield from _buckets(list(self._module.named_parameters()), nbytes, is_partitioned=self._is_partitioned)


def _drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _: Mapping[str, Any]) -> None:
    """Leave frozen weights out of checkpoints. DeepSpeed itself would keep those that are tied, by a second name."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            state.pop(prefix + name, None)


def _size(parameter: Tensor) -> int:
    """Elements of the whole parameter, also where this rank holds a part."""
    return getattr(parameter, "ds_numel", parameter.numel())


def _num_elements(parameters: Sequence[Tensor]) -> int:
    return sum(map(_size, parameters))


def _weight_bytes(parameters: Sequence[Tensor]) -> int:
    return _num_elements(parameters) * parameters[0].element_size()


def _buckets(parameters: Bucket, nbytes: int, *, is_partitioned: bool) -> Iterator[Bucket]:
    for bucket in _plan_buckets(parameters, nbytes):
        with deepspeed.zero.GatheredParameters([p for _, p in bucket], enabled=is_partitioned):
            yield [(name, parameter.detach()) for name, parameter in bucket]


def _plan_buckets(parameters: Bucket, nbytes: int) -> Iterator[list[tuple[str, Tensor]]]:
    bucket: list[tuple[str, Tensor]] = []
    size = 0
    for _, owned in groupby(parameters, key=lambda named: named[0].rpartition(".")[0]):
        layer = list(owned)
        layer_size = sum(_size(parameter) * parameter.element_size() for _, parameter in layer)
        if bucket and size + layer_size > nbytes:
            yield bucket
            bucket, size = [], 0
        bucket += layer
        size += layer_size
    if bucket:
        yield bucket


def _bound_waits(seconds: float) -> None:
    """Give every process group the timeout: those that DeepSpeed makes would else wait for half an hour."""
    for group in list(distributed_c10d._world.pg_map):
        distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=seconds), group)


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
