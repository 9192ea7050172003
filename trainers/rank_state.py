"""One rank's part of a checkpoint: its shards of every engine, its random generators, a reference that moves."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist

from trainers.checkpoint import CheckpointError, require_space
from trainers.rank import RankModels
from trainers.rng import load_rng, save_rng
from trainers.zero.frozen import FrozenModel
from trainers.zero.universal import make_universal

REFERENCE = "reference"
BUCKET_BYTES = 1 << 30


def save_rank(trainer: RankModels, folder: Path, prefix: str = "") -> None:
    """Write this rank's part. OSError, on every rank alike, when the disk has no room for the whole.

    `prefix` goes before the names of files that ranks of another group would else write too.
    """
    reference = trainer.moving_reference
    parts = [*trainer.engines.values(), *([] if reference is None else [reference])]
    require_space(folder, sum(part.checkpoint_bytes for part in parts))
    for name, engine in trainer.engines.items():
        engine.save(folder / name)
    if reference is not None:
        _save_reference(reference, folder / REFERENCE)
    save_rng(_rng_file(folder, prefix))


def load_rank(trainer: RankModels, folder: Path, prefix: str = "", universal: Path | None = None) -> None:
    """Go on from this rank's part of a checkpoint; its manifest must have been verified.

    `universal`: what `convert_rank` made of it, where another number of ranks wrote it. Ranks that it knows nothing
    of keep the generators that they started with.
    """
    rng = _rng_file(folder, prefix)
    if universal is None and not rng.is_file():
        raise CheckpointError(f"{rng}: missing, so the checkpoint is not one of {dist.get_world_size()} ranks")
    for name, engine in trainer.engines.items():
        engine.load((universal or folder) / name, is_universal=universal is not None)
    if trainer.moving_reference is not None:
        files = sorted((folder / REFERENCE).glob("*.safetensors"))
        trainer.moving_reference.load(list(load_file(file).items()) for file in files)
    if rng.is_file():
        load_rng(rng)


def convert_rank(trainer: RankModels, folder: Path, universal: Path) -> None:
    """Rewrite a verified checkpoint of another number of ranks so that these can load it; the first rank does it."""
    if dist.get_rank() == 0:
        require_space(universal.parent, sum(engine.checkpoint_bytes for engine in trainer.engines.values()))
        for name in trainer.engines:
            make_universal(folder / name, universal / name)


def _save_reference(reference: FrozenModel, folder: Path) -> None:
    """All ranks enter, the first one writes."""
    folder.mkdir(exist_ok=True)
    for number, bucket in enumerate(reference.buckets(BUCKET_BYTES)):
        if dist.get_rank() == 0:
            tensors: dict[str, torch.Tensor] = {name: tensor.cpu().contiguous() for name, tensor in bucket}
            save_file(tensors, folder / f"{number:05d}.safetensors")


def _rng_file(folder: Path, prefix: str) -> Path:
    return folder / "rng" / f"{prefix}rank_{dist.get_rank()}.safetensors"
