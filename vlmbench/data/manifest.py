"""The manifest: JSON lines with one record a line, read lazily.

A manifest of a million records costs a few arrays. A single pass checks every row. A row is
decoded on access, and the first REMEMBERED rows stay decoded. Nothing in a row is trusted: see
`row_errors`.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from vlmbench.data.invalid_rows import (
    MAX_INVALID_ROWS,
    InvalidRow,
    invalid_rows_error,
    stop_note,
)
from vlmbench.data.lines import MAX_LINE, LineFile, changed_error
from vlmbench.data.manifest_format import Row, make_record, normal_row, row_errors
from vlmbench.data.paths import blurred_name, is_plain_file, normal_path, normal_text, path_cure
from vlmbench.types import PLANTED, Record, Role, Split, Task, UserError

REMEMBERED = 20_000  # decoded records of a manifest
MAX_ALIKE = 3  # pairs of parts that look alike, named in warnings

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
    `planted` (N,): the record's defect was planted by software. `warnings` name parts that look
    alike.
    """

    path: Path
    labels: Mapping[str, str]
    tasks: NDArray[np.int8]
    splits: SplitIndices
    groups: Hashes
    images: Hashes
    planted: NDArray[np.bool_]
    warnings: tuple[str, ...]
    _rows: LineFile
    _decoded: dict[int, Record] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.path.parent

    def image_name(self, image: Path) -> str:
        """Return the one spelling of a record's image path, relative to the manifest."""
        # Path.relative_to takes ten times as long.
        name = image.as_posix().removeprefix(f"{self.folder.as_posix().rstrip('/')}/")
        return name if name.isascii() else normal_path(name)

    def location(self, index: int) -> str:
        """Return the file and line of a record, for messages: "mine.jsonl:812"."""
        return f"{self.path}:{self._rows.line_number(index)}"

    def __len__(self) -> int:
        return len(self.tasks)

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
        row = normal_row(_decoder.decode(self._rows.read(index)))
        try:
            return make_record(row, self.folder, self.labels)
        except UserError as error:
            raise UserError(f"{self.location(index)}: {error}") from error

    def digest(self) -> Any:
        """Return the SHA-256 object of the manifest's bytes as they were read, to be continued."""
        return self._rows.digest()

    def check_unchanged(self) -> None:
        """Raise UserError if the file at the manifest's path is not as it was read."""
        try:
            with self.path.open("rb") as file:
                now = hashlib.file_digest(file, "sha256").digest()
        except OSError:
            now = b""
        if now != self.digest().digest():
            raise changed_error(self.path)


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
    if not is_plain_file(path):
        cure = path_cure(
            "source.path", path, is_folder=False, otherwise="fix source.path, or add the file"
        )
        raise UserError(f"{path}: the manifest does not exist; {cure}")
    stat = path.stat()
    if stat.st_size == 0:
        raise UserError(f"{path}: the manifest is empty; write one JSON record a line")

    version = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    label_pairs = tuple(
        sorted((normal_text(word), label) for word, label in (labels or {}).items())
    )
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
    scan.read()

    if scan.invalid_rows:
        raise invalid_rows_error(scan.invalid_rows, cure=stop_note(path, scan.invalid_rows))
    if not len(scan.rows):
        raise UserError(f"{path}: the manifest has no record; write one JSON record a line")

    return Manifest(
        path=path,
        labels=labels,
        tasks=np.array(scan.tasks, dtype=np.int8),
        splits=np.array(scan.splits, dtype=np.int8),
        groups=np.array(scan.groups, dtype=np.uint64),
        images=np.array(scan.images, dtype=np.uint64).reshape(-1, 2),
        planted=np.array(scan.planted, dtype=np.bool_),
        warnings=tuple(scan.alike),
        _rows=scan.rows,
    )


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
        self.planted = array("b")
        self.rows = LineFile(path)
        self.invalid_rows: list[InvalidRow] = []
        self.alike: list[str] = []

        self._line_of_id: dict[int, int] = {}
        self._blurred_groups: dict[int, tuple[int, int]] = {}  # -> hash of the group, line
        self._task_index = {task: index for index, task in enumerate(TASKS)}
        self._split_index = {None: NO_SPLIT} | {split: index for index, split in enumerate(SPLITS)}

    def read(self) -> None:
        """Read the lines up to the last one, or up to MAX_INVALID_ROWS invalid rows."""
        for number, line in self.rows.scan():
            self._add(line, number)
            if len(self.invalid_rows) >= MAX_INVALID_ROWS:
                break

    def _add(self, line: bytes, number: int) -> None:
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

        self._add_columns(row)
        self._compare_group(row.group, number)

    def _add_columns(self, row: Row) -> None:
        self.rows.keep()
        self.tasks.append(self._task_index[row.task])
        self.splits.append(self._split_index[row.split])
        self.groups.append(hash_name(row.group))
        self.planted.append(PLANTED in row.meta)

        images = [hash_name(image.path) for image in row.images]
        self.images.extend((images[0], images[-1]))

    def _compare_group(self, group: str, number: int) -> None:
        """Warn if an earlier row has another group that looks the same."""
        own = self.groups[-1]
        if self.groups[-2:-1] == array("Q", [own]):  # rows of a part stand together
            return

        blurred = hash_name(blurred_name(group))
        first, line = self._blurred_groups.setdefault(blurred, (own, number))
        if first == own:
            return

        self._blurred_groups[blurred] = (own, number)
        if len(self.alike) < MAX_ALIKE:
            self.alike.append(
                f"{self.path}:{number}: group {group!r} looks like the group of line {line}, but "
                "its characters differ (case, width or blanks); they count as two parts. Write "
                "one name if they are one part"
            )

    def _decode(self, line: bytes, number: int) -> Row | None:
        if len(line) > MAX_LINE:
            self._refuse(
                number,
                f"the line is too long, the limit is {MAX_LINE} bytes; shorten it",
            )
            return None

        try:
            return normal_row(_decoder.decode(line))
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
