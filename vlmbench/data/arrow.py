"""Read rows of parquet and arrow files a few at a time, without mapping a file.

A dictionary of a parquet file unpacks a thousand times: 184 kB became 624 MB of images.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmbench.data.images import image_path_error
from vlmbench.data.photos.photo import require_file
from vlmbench.data.rows.read import decode
from vlmbench.types import UserError

SAVED = ("state.json", "dataset_dict.json")  # the files that save_to_disk writes
HUB_FORMATS = ("arrow", "parquet")
BATCH = 1  # rows that are unpacked at once: 8 images of 60 MB took 1.6 GB
MAX_STATE = 20_000_000  # bytes of a JSON file
MAX_COLUMNS = 1000
HEAD = 1000  # bytes of a file that may be a pointer
# Positions of fields in Arrow's flatbuffers (format/Message.fbs in Arrow's source).
HEADER_TYPE, HEADER = 1, 2  # of a message
DICTIONARY, RECORDS = 2, 3  # types of a header
DICTIONARY_DATA, COMPRESSION = 1, 3  # of a dictionary and of records
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
    """Return the arrow schema of a file. Raise UserError for many columns, or equal names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.OSFile(str(path)) as file:
        if path.suffix == ".parquet":
            schema = pq.read_schema(file)
        else:
            with pa.ipc.open_stream(file) as reader:
                schema = reader.schema

    _check_columns(path, schema.names)
    return schema


def _check_columns(path: Path, names: Sequence[str]) -> None:
    """Raise UserError for more than MAX_COLUMNS columns, or two of one name."""
    if len(names) > MAX_COLUMNS:
        raise UserError(
            f"{path}: the file has {len(names):,} columns, the limit is {MAX_COLUMNS:,}; save it "
            "with the columns of images and labels alone"
        )
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{path}: column {name[:60]!r} occurs twice; give each column its own name"
            )


def _parquet_batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.OSFile(str(path)) as source, pq.ParquetFile(source) as file:
        _check_chunks(path, file.metadata)
        yield from file.iter_batches(batch_size=BATCH, columns=list(columns), use_threads=False)


def _arrow_batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    import pyarrow as pa

    _refuse_compression(path)
    with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            chosen = batch.select(list(columns))
            for start in range(0, chosen.num_rows, BATCH):
                yield chosen.slice(start, BATCH)


def _refuse_compression(path: Path) -> None:
    """Raise UserError if an arrow file is compressed: 100 kB would unpack to gigabytes.

    pyarrow has no limit for it, and save_to_disk never compresses.
    """
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        for message in pa.ipc.MessageReader.open_stream(source):
            try:
                is_packed = _is_compressed(message.metadata.to_pybytes())
            except struct.error as error:
                raise ValueError("a message of the file is damaged") from error
            if is_packed:
                raise UserError(
                    f"{path}: the file is compressed, and save_to_disk never compresses; load the "
                    "data set and save it with save_to_disk"
                )


def _is_compressed(message: bytes) -> bool:
    """Return whether the records of an IPC message are compressed, by its flatbuffer."""
    root = struct.unpack_from("<I", message)[0]
    kind = _field(message, root, HEADER_TYPE)
    header = _table(message, root, HEADER)
    if kind is None or header is None or message[kind] not in (DICTIONARY, RECORDS):
        return False

    if message[kind] == DICTIONARY:
        header = _table(message, header, DICTIONARY_DATA)
    return header is not None and _field(message, header, COMPRESSION) is not None


def _table(buffer: bytes, table: int, field: int) -> int | None:
    """Return the position of the table that a field of a flatbuffer's table refers to."""
    position = _field(buffer, table, field)
    return None if position is None else position + struct.unpack_from("<I", buffer, position)[0]


def _field(buffer: bytes, table: int, field: int) -> int | None:
    """Return the position of a field of a flatbuffer's table; None if it is not set."""
    fields = table - struct.unpack_from("<i", buffer, table)[0]
    size = struct.unpack_from("<H", buffer, fields)[0]
    slot = 4 + 2 * field
    offset = struct.unpack_from("<H", buffer, fields + slot)[0] if slot < size else 0
    return table + offset if offset else None


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file. Raise UserError for a JSON file that is too large."""
    size = path.stat().st_size
    if path.suffix == ".json" and size > MAX_STATE:
        raise UserError(
            f"{path}: the file has {size:,} bytes, at most {MAX_STATE:,} are allowed; move it to "
            "another folder"
        )
    with path.open("rb") as file:
        return file.read(HEAD)


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


def check_hub_files(source_path: str, builder: Any) -> None:
    """Raise UserError if a hub data set has other files than arrow and parquet.

    The library would unpack archives such as data.zip without a limit.
    """
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in HUB_FORMATS:
        raise UserError(
            f"source.path={source_path}: the files have the format {kind}, must be "
            f"{' or '.join(HUB_FORMATS)}; convert the data set to parquet"
        )

    for files in (builder.config.data_files or {}).values():
        for file in map(str, files):
            if not file.endswith(tuple(f".{name}" for name in HUB_FORMATS)):
                raise UserError(
                    f"source.path={source_path}: the data set is in an archive, {file[-80:]}, "
                    "which is not unpacked; unpack it, and name its folder with source.path"
                )


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
    files = read_object(state).get("_data_files") or []
    listed = files if isinstance(files, list) else [files]
    names = [file.get("filename") if isinstance(file, dict) else None for file in listed]
    if not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{state}: _data_files must list the names of files; save the data set again"
        )

    texts = list(map(str, names))
    if len({*texts}) < len(texts):
        raise UserError(f"{state}: _data_files names a file twice; save the data set again")
    return texts


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
