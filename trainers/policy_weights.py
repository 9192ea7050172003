"""The policy's weights as the outside knows them: whole, under a checkpoint's names, or its adapters alone."""

from collections.abc import Iterator, Mapping

from trainers.adapter_names import adapter_name
from trainers.checkpoint_tensors import checkpoint_tensors
from trainers.lora import LoraLinear, adapted_layers
from trainers.model import checkpoint_name
from trainers.zero.buckets import Bucket
from trainers.zero.engine import ZeroEngine


def whole_weights(engine: ZeroEngine, nbytes: int) -> Iterator[Bucket]:
    """All weights, adapters merged into them, about `nbytes` at a time; see `ZeroEngine.buckets`."""
    layers = adapted_layers(engine.module)
    for bucket in engine.buckets(nbytes):
        yield checkpoint_tensors(_merged(bucket, layers))


def _merged(bucket: Bucket, layers: Mapping[str, LoraLinear]) -> Bucket:
    """The bucket with one weight for each adapted layer; all that a layer owns is in the same bucket."""
    tensors = dict(bucket)
    merged = []
    for name, tensor in bucket:
        owner, _, part = name.rpartition(".")
        if owner not in layers or part == "bias":
            merged.append((name, tensor))
        elif part == "weight":
            layer = layers[owner]
            merged.append((name, layer.merge(tensor, tensors[f"{owner}.lora_A"], tensors[f"{owner}.lora_B"])))
    return merged


def adapter_weights(engine: ZeroEngine, nbytes: int) -> Iterator[Bucket]:
    """The matrices of all adapters, under peft's names, about `nbytes` at a time."""
    for bucket in engine.buckets(nbytes, trained_only=True):
        yield [(adapter_name(checkpoint_name(name)), tensor) for name, tensor in bucket]
