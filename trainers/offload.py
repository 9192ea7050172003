"""Tensors whose memory lies on the host while somebody else needs the device's."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, UntypedStorage


class Offloadable:
    """Tensors that leave a device together, and come back.

    It is their storages that move: whoever holds one of the tensors or a view of it, as DeepSpeed does, holds it
    afterwards, too. Between `offload` and `reload` nobody may touch them: they have no memory.
    """

    def __init__(self, tensors: Callable[[], Iterable[Tensor]], device: torch.device) -> None:
        """`tensors`: asked each time, as an optimiser makes some at its first step. Those elsewhere stay there."""
        self._tensors = tensors
        self._device = device
        self._away: list[tuple[UntypedStorage, UntypedStorage]] | None = None  # each with its copy on the host
        self._spare: list[UntypedStorage] = []  # copies of the last time: pinned memory takes long to get

    @property
    def is_offloaded(self) -> bool:
        """Whether they are away."""
        return self._away is not None

    def offload(self) -> None:
        """Copy all to the host and free the device's memory. Nothing, where they are away already."""
        if self.is_offloaded:
            return
        storages = [storage for storage in _distinct(self._tensors()) if storage.device.type == self._device.type]
        if [copy.nbytes() for copy in self._spare] != [storage.nbytes() for storage in storages]:
            self._spare = [self._on_host(storage.nbytes()) for storage in storages]
        self._away = list(zip(storages, self._spare, strict=True))
        for storage, copy in self._away:
            copy.copy_(storage)
            storage.resize_(0)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # else this process would keep what it freed

    def reload(self) -> None:
        """Bring all back. Nothing, where they are on the device."""
        for storage, copy in self._away or []:
            storage.resize_(copy.nbytes())
            storage.copy_(copy)
        self._away = None

    def _on_host(self, nbytes: int) -> UntypedStorage:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._device.type != "cpu").untyped_storage()


def optimizer_tensors(optimizer: torch.optim.Optimizer, weights: Iterable[Tensor]) -> Iterator[Tensor]:
    """What an optimiser holds besides the weights: their float32 masters, where there are any, and its moments."""
    # ZeRO-3 takes the masters out of the groups between two steps.
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    kept = {_pointer(weight) for weight in weights}
    yield from (tensor for tensor in (*grouped, *optimizer.state, *moments) if _pointer(tensor) not in kept)


def _distinct(tensors: Iterable[Tensor]) -> list[UntypedStorage]:
    """What is allocated for these tensors, each once."""
    return [storage for pointer, storage in {_pointer(t): t.untyped_storage() for t in tensors}.items() if pointer]


def _pointer(tensor: Tensor) -> int:
    """Of the memory that it lies in."""
    return tensor.untyped_storage().data_ptr()
