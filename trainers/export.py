"""The policy in Hugging Face format: safetensors, config and tokenizer, in a folder that appears whole."""

import copy
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from trainers.zero.buckets import Bucket

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


@contextmanager
def export_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder to fill; it takes the place of `folder` when the block ends without an error."""
    temporary, replaced = (folder.with_name(f".{folder.name}.{ending}") for ending in ("partial", "replaced"))
    for leftover in (temporary, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _flush(temporary)
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def write_weights(buckets: Iterable[Bucket], folder: Path) -> None:
    """Write each bucket as one file, and the index that names them when there are several."""
    shards: list[tuple[Path, list[str]]] = []
    total_bytes = 0
    for number, bucket in enumerate(buckets, start=1):
        tensors = {name: tensor.contiguous().cpu() for name, tensor in bucket}
        path = folder / f"model-{number:05d}.partial"
        save_file(tensors, path, metadata={"format": "pt"})
        shards.append((path, list(tensors)))
        total_bytes += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) == 1:
        shards[0][0].rename(folder / WEIGHTS)
        return
    weight_map = {}
    for number, (path, names) in enumerate(shards, start=1):
        final = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        path.rename(final)
        weight_map |= dict.fromkeys(names, final.name)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def write_adapter(buckets: Iterable[Bucket], config: Mapping[str, Any], folder: Path) -> None:
    """Write adapters as peft loads them: one file of matrices, and their config."""
    folder.mkdir()
    tensors = {name: tensor.contiguous().cpu().clone() for bucket in buckets for name, tensor in bucket}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def write_description(
    folder: Path,
    config: PretrainedConfig,
    generation: GenerationConfig | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    """Write what a loader needs besides weights, once they are written: their dtype goes into the config."""
    with safe_open(next(folder.glob("*.safetensors")), framework="pt") as weights:
        dtype = weights.get_tensor(next(iter(weights.keys()))).dtype
    config = copy.deepcopy(config)
    config.dtype = dtype
    config.save_pretrained(folder)
    if generation is not None:
        generation.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
