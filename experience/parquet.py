"""Parquet files as Arrow tables: written whole or not at all, and refused by name when damaged."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from experience.errors import DataError
from metrics.whole_file import whole_file

# A file that unpacks to more than this, and to more than so many times its size, is taken for a bomb.
_MAX_UNPACKED_BYTES = 4 * 2**30
_MAX_RATIO = 1000


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write the file; what stands under `path` is always complete."""
    with whole_file(path) as draft:
        pq.write_table(table, draft, compression="zstd", write_page_checksum=True)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a file, with all columns or those named. DataError names the file and the damaged row group."""
    try:
        file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a complete Parquet file: {_first_line(error)}") from error
    with file:
        metadata = file.metadata
        unpacked = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        if unpacked > max(_MAX_UNPACKED_BYTES, _MAX_RATIO * path.stat().st_size):
            raise DataError(f"{path}: would unpack to {unpacked / 2**30:.0f} GiB, {_MAX_RATIO} times its size; refused")
        groups = [_read_group(file, group, path, columns) for group in range(metadata.num_row_groups)]
        return pa.concat_tables(groups) if groups else file.schema_arrow.empty_table()


def _read_group(file: pq.ParquetFile, group: int, path: Path, columns: Sequence[str] | None) -> pa.Table:
    try:
        return file.read_row_group(group, columns=None if columns is None else list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: row group {group} is damaged: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
