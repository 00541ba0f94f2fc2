"""Read rows of parquet and arrow files a few at a time, without mapping a file.

A dictionary of a parquet file unpacks a thousand times: 184 kB became 624 MB of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmbench.data.images import image_path_error
from vlmbench.data.photos.photo import require_file
from vlmbench.data.rows.read import decode
from vlmbench.types import UserError

SAVED = ("state.json", "dataset_dict.json")  # the files that save_to_disk writes
BATCH = 8  # rows that are unpacked at once
MAX_CHUNK = 500_000_000  # bytes that a column of a row group may unpack to


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrowRows:
    """The rows of files with one schema. `features` describe all columns, `columns` are read."""

    files: Sequence[Path]
    features: Any
    columns: Sequence[str] = ()

    def select_columns(self, columns: Sequence[str]) -> ArrowRows:
        """Return the same rows with these columns."""
        return replace(self, columns=tuple(columns))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for path in self.files:
            batches = _parquet_batches if path.suffix == ".parquet" else _arrow_batches
            for batch in batches(path, self.columns):
                yield from batch.to_pylist()

    @property
    def num_bytes(self) -> int:
        """Return the size of the files."""
        return sum(path.stat().st_size for path in self.files)


def read_schema(path: Path) -> Any:
    """Return the arrow schema of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.OSFile(str(path)) as file:
        if path.suffix == ".parquet":
            return pq.read_schema(file)
        with pa.ipc.open_stream(file) as reader:
            return reader.schema


def _parquet_batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.OSFile(str(path)) as source, pq.ParquetFile(source) as file:
        _check_chunks(path, file.metadata)
        yield from file.iter_batches(batch_size=BATCH, columns=list(columns), use_threads=False)


def _arrow_batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    import pyarrow as pa

    with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            chosen = batch.select(list(columns))
            for start in range(0, chosen.num_rows, BATCH):
                yield chosen.slice(start, BATCH)


def _check_chunks(path: Path, metadata: Any) -> None:
    """Raise UserError if a column of a row group unpacks to more than MAX_CHUNK bytes."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in range(row_group.num_columns):
            size = row_group.column(column).total_uncompressed_size
            if size > MAX_CHUNK:
                raise UserError(
                    f"{path}: a column of row group {group} unpacks to {size:,} bytes, the limit "
                    f"is {MAX_CHUNK:,}; save the file with fewer rows in each row group"
                )


def check_saved(root: Path) -> None:
    """Raise UserError if a saved data set names a file outside its folder."""
    for state in root.rglob("state.json"):
        for name in _data_files(state):
            path_error = image_path_error(name)
            if path_error is not None:
                raise UserError(f"{state}: {path_error}")


def saved_files(folder: Path) -> list[Path]:
    """Return the arrow files of a data set that save_to_disk wrote, in their order."""
    state = folder / SAVED[0]
    if read_object(state).get("_indices_data_files"):
        raise UserError(
            f"{state}: the data set is a selection of rows; flatten it before it is saved: "
            "data_set.flatten_indices().save_to_disk"
        )

    files = [folder / name for name in _data_files(state)]
    for file in files:
        require_file(file, inside=folder)
    return files


def _data_files(state: Path) -> list[str]:
    """Return the names of the files that a state.json names."""
    files = read_object(state).get("_data_files")
    names = [file.get("filename") if isinstance(file, dict) else None for file in files or []]
    return [str(name) for name in names]


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raise UserError if there is none."""
    return decode(path.read_bytes(), dict[str, Any], str(path))


def image_bytes(value: Any, column: str) -> bytes:
    """Return the content of the image's file.

    A path in the row is not followed: otherwise the data set would choose which of this machine's
    files are read.
    """
    content = value.get("bytes") if isinstance(value, dict) else value

    if not isinstance(content, bytes) or not content:
        raise UserError(
            f"column {column!r} holds no bytes of an image; save the data set with its images in "
            "it, or name the column of images with source.image"
        )

    return content
