"""The manifest: JSON lines with one record a line, read lazily.

A manifest of a million records costs a few arrays. A single pass checks every row. A row is
decoded on access, and the first REMEMBERED rows stay decoded. Nothing in a row is trusted: see
`row_errors`.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import overload

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from vlmbench.data.invalid_rows import InvalidRow, invalid_rows_error
from vlmbench.data.manifest_format import Row, make_record, row_errors
from vlmbench.data.paths import path_cure
from vlmbench.types import Record, Role, Split, Task, UserError

MAX_INVALID_ROWS = 1000  # reading stops after so many
MAX_LINE = 1_000_000  # bytes
REMEMBERED = 20_000  # decoded records of a manifest
BOM = b"\xef\xbb\xbf"  # some editors begin a file with it

CHOICES: Mapping[str, type[StrEnum]] = {"task": Task, "split": Split, "role": Role}
TASKS = tuple(Task)
SPLITS = tuple(Split)
NO_SPLIT = -1

SplitIndices = NDArray[np.int8]  # indices into SPLITS, or NO_SPLIT
Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]

_decoder = msgspec.json.Decoder(Row)


def hash_name(name: str) -> int:
    """Return the 64-bit number that stands for a group or an image path in a manifest's columns."""
    return xxhash.xxh3_64_intdigest(name.encode())


@dataclass(frozen=True, slots=True, eq=False)
class Manifest(Sequence[Record]):
    """The records of a manifest, in the file's order.

    `labels` maps the user's words to the tasks' labels. `tasks` (N,) and `splits` (N,) hold indices
    into TASKS and SPLITS; NO_SPLIT: the manifest does not fix the split. `groups` (N,) and
    `images` (N, 2) hold 64-bit hashes of names. A record with one image has its hash twice.
    """

    path: Path
    labels: Mapping[str, str]
    tasks: NDArray[np.int8]
    splits: SplitIndices
    groups: Hashes
    images: Hashes
    _offsets: Indices
    _lines: NDArray[np.int32]
    _bytes: mmap.mmap
    _decoded: dict[int, Record] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.path.parent

    def image_name(self, image: Path) -> str:
        """Return a record's image path as its row names it: relative to the manifest."""
        # Path.relative_to takes ten times as long.
        return image.as_posix().removeprefix(f"{self.folder.as_posix().rstrip('/')}/")

    def location(self, index: int) -> str:
        """Return the file and line of a record, for messages: "mine.jsonl:812"."""
        return f"{self.path}:{self._lines[index]}"

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]

        record = self._decoded.get(index)
        if record is None:
            record = self._decode(index)
            if len(self._decoded) < REMEMBERED:
                self._decoded[index] = record
        return record

    def _decode(self, index: int) -> Record:
        start = int(self._offsets[index])
        newline = self._bytes.find(b"\n", start)
        end = len(self._bytes) if newline < 0 else newline

        row = _decoder.decode(self._bytes[start:end])
        return make_record(row, self.folder, self.labels)


def open_manifest(
    path: Path,
    *,
    labels: Mapping[str, str] | None = None,
    views: Collection[str] = ("raw",),
    labelled: bool = True,
) -> Manifest:
    """Return the manifest after a check of every row's structure. Images are not opened.

    `views` are the views that this run can show. If `labelled` is false, a row may have no label,
    and the record's label is then "". Raises UserError that names the invalid rows by line, value
    and cure, each reason once. Reading stops after MAX_INVALID_ROWS invalid rows.
    """
    if not _is_file(path):
        cure = path_cure(
            "source.path", path, is_folder=False, otherwise="fix source.path, or add the file"
        )
        raise UserError(f"{path}: the manifest does not exist; {cure}")
    stat = path.stat()
    if stat.st_size == 0:
        raise UserError(f"{path}: the manifest is empty; write one JSON record a line")

    version = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    label_pairs = tuple(sorted((labels or {}).items()))
    return _scan_file(path, version, label_pairs, frozenset(views), labelled)


@lru_cache(maxsize=2)
def _scan_file(
    path: Path,
    version: tuple[int, ...],
    label_pairs: tuple[tuple[str, str], ...],
    views: frozenset[str],
    labelled: bool,
) -> Manifest:
    """Return the manifest. A process scans a file once as long as its `version` is the same."""
    labels = dict(label_pairs)
    scan = _Scan(
        path=path,
        labels=labels,
        views=views,
        labelled=labelled,
    )
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    scan.read(content)

    if scan.invalid_rows:
        stopped = len(scan.invalid_rows) >= MAX_INVALID_ROWS
        note = f"reading {path} stopped after {MAX_INVALID_ROWS} invalid rows" if stopped else ""
        raise invalid_rows_error(scan.invalid_rows, cure=note)
    if not scan.offsets:
        raise UserError(f"{path}: the manifest has no record; write one JSON record a line")

    return Manifest(
        path=path,
        labels=labels,
        tasks=np.array(scan.tasks, dtype=np.int8),
        splits=np.array(scan.splits, dtype=np.int8),
        groups=np.array(scan.groups, dtype=np.uint64),
        images=np.array(scan.images, dtype=np.uint64).reshape(-1, 2),
        _offsets=np.array(scan.offsets, dtype=np.int64),
        _lines=np.array(scan.lines, dtype=np.int32),
        _bytes=content,
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no file can have such a name
        return False


class _Scan:
    """A pass over the lines: columns of the valid rows, messages for the invalid rows."""

    def __init__(
        self,
        *,
        path: Path,
        labels: Mapping[str, str],
        views: frozenset[str],
        labelled: bool,
    ) -> None:
        self.path = path
        self.labels = labels
        self.views = views
        self.labelled = labelled

        self.tasks = array("b")
        self.splits = array("b")
        self.groups = array("Q")
        self.images = array("Q")
        self.offsets = array("q")
        self.lines = array("i")
        self.invalid_rows: list[InvalidRow] = []

        self._line_of_id: dict[int, int] = {}
        self._task_index = {task: index for index, task in enumerate(TASKS)}
        self._split_index = {None: NO_SPLIT} | {split: index for index, split in enumerate(SPLITS)}

    def read(self, content: mmap.mmap) -> None:
        """Read the lines up to the last one, or up to MAX_INVALID_ROWS invalid rows."""
        offset = 0
        if content[: len(BOM)] == BOM:
            content.seek(len(BOM))
            offset = len(BOM)

        for number, line in enumerate(iter(content.readline, b""), start=1):
            self._add(line, number, offset)
            offset += len(line)
            if len(self.invalid_rows) >= MAX_INVALID_ROWS:
                break

    def _add(self, line: bytes, number: int, offset: int) -> None:
        if not line.strip():
            return
        row = self._decode(line, number)
        if row is None:
            return

        errors = list(row_errors(row, self.labels, self.views, labelled=self.labelled))
        first_line = self._line_of_id.setdefault(hash_name(row.id), number)
        if first_line != number:
            errors.append(
                f"id {row.id!r} is already in line {first_line}; give every record its own id"
            )
        if errors:
            for error in errors:
                self._refuse(number, error)
            return

        self._add_columns(row, number, offset)

    def _add_columns(self, row: Row, number: int, offset: int) -> None:
        self.offsets.append(offset)
        self.lines.append(number)
        self.tasks.append(self._task_index[row.task])
        self.splits.append(self._split_index[row.split])
        self.groups.append(hash_name(row.group))

        images = [hash_name(image.path) for image in row.images]
        self.images.extend((images[0], images[-1]))

    def _decode(self, line: bytes, number: int) -> Row | None:
        if len(line) > MAX_LINE:
            self._refuse(
                number, f"the line has {len(line)} bytes, the limit is {MAX_LINE}; shorten it"
            )
            return None

        try:
            return _decoder.decode(line)
        except UnicodeDecodeError as error:
            self._refuse(
                number, f"byte {error.start} of the line is not UTF-8; save the file as UTF-8"
            )
        except msgspec.MsgspecError as error:
            cure = "see docs/reference/records.md for the format of a record"
            self._refuse(number, f"{error}{_valid_values(str(error))}; {cure}")
        return None

    def _refuse(self, number: int, reason: str) -> None:
        location = f"{self.path}:{number}"
        self.invalid_rows.append(InvalidRow(location=location, reason=reason))


def _valid_values(message: str) -> str:
    """Return the valid values of the field that an enum error names, or ""."""
    for name, values in CHOICES.items():
        if message.startswith("Invalid enum value") and message.endswith(f".{name}`"):
            return f", which must be one of {', '.join(values)}"

    return ""
