"""A model that is never trained."""

from collections.abc import Iterable, Iterator
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from configs.schema.model import Dtype
from configs.schema.training import TrainerConfig
from trainers.deepspeed_config import deepspeed_config
from trainers.offload import Offloadable
from trainers.zero.buckets import Bucket, gathered, weight_bytes
from trainers.zero.group import bound_waits, this_device


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
                buffer.data = buffer.data.to(this_device())
            self._model = deepspeed.initialize(model=module, config=config)[0]
            bound_waits(trainer.collective_timeout_seconds)
        else:
            module.to(this_device())
        self._weights = Offloadable(self._tensors, this_device())

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return this_device()

    def offload(self) -> None:
        """Free the device's memory of it; `reload` must come before its next use."""
        self._weights.offload()

    def reload(self) -> None:
        """Bring it back to the device."""
        self._weights.reload()

    def _tensors(self) -> Iterator[Tensor]:
        """This rank's part of the weights."""
        for parameter in self._module.parameters():
            yield getattr(parameter, "ds_tensor", parameter)

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward pass, without gradients."""
        assert not self._weights.is_offloaded, "a model that is offloaded has no weights"
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
        return weight_bytes(list(self._module.parameters()))

    def buckets(self, nbytes: int) -> Iterator[Bucket]:
        """See `ZeroEngine.buckets`."""
        yield from gathered(list(self._module.named_parameters()), nbytes, is_partitioned=self._is_partitioned)
