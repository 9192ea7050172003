"""Generated data sets as Parquet files, named by the settings that they were made from."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from configs.schema.base import Section
from experience.parquet import write_parquet

logger = logging.getLogger(__name__)

SectionT = TypeVar("SectionT", bound=Section)


def write_generated(
    kind: str,
    version: int,
    config: SectionT,
    make_tables: Callable[[SectionT], tuple[pa.Table, pa.Table]],
    folder: Path,
) -> tuple[Path, Path]:
    """Files of the training and the held-out rows; those of the same kind, version and settings are reused."""
    digest = hashlib.sha256(f"{version} {config.model_dump_json()}".encode()).hexdigest()[:12]
    train_path, eval_path = (folder / f"{kind}-{digest}-{split}.parquet" for split in ("train", "eval"))
    if train_path.exists() and eval_path.exists():
        return train_path, eval_path
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = make_tables(config)
    write_parquet(train, train_path)
    write_parquet(held_out, eval_path)
    logger.info("wrote %d %s problems to %s and %d held-out ones", len(train), kind, train_path, len(held_out))
    return train_path, eval_path
