"""A policy's tensors as a Hugging Face checkpoint has them: their names, and experts one by one.

In memory transformers keeps the experts of a layer in two tensors; checkpoints and engines know three matrices
of each expert.
"""

# E experts, I their inner size, D hidden size

from collections.abc import Iterable, Iterator

from torch import Tensor

from trainers.model import checkpoint_name

NamedTensor = tuple[str, Tensor]


def checkpoint_tensors(tensors: Iterable[NamedTensor]) -> list[NamedTensor]:
    """What a checkpoint holds in place of a PolicyModel's parameters; views, nothing is copied."""
    return [piece for name, tensor in tensors for piece in _pieces(checkpoint_name(name), tensor)]


def _pieces(name: str, tensor: Tensor) -> Iterator[NamedTensor]:
    layer, _, fused = name.rpartition(".experts.")
    if fused == "gate_up_proj":  # [E, 2 * I, D]
        for number, (gate, up) in enumerate(zip(*tensor.chunk(2, dim=1), strict=True)):
            yield f"{layer}.experts.{number}.gate_proj.weight", gate
            yield f"{layer}.experts.{number}.up_proj.weight", up
    elif fused == "down_proj":  # [E, D, I]
        for number, down in enumerate(tensor):
            yield f"{layer}.experts.{number}.down_proj.weight", down
    else:
        yield name, tensor
