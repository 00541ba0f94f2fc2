"""The manifest: JSON lines, one record a line, read lazily.

A manifest of a million records costs a few arrays: rows are checked once, in one pass, and decoded when asked for; the
first of them stay decoded, so that small manifests are so once. Nothing in a row is trusted: see `row_errors`.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import overload

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from vlmbench.data.pictures import path_error
from vlmbench.data.wrongs import Misfit, refusal
from vlmbench.types import LABELS, NUM_IMAGES, ImageRef, Record, Role, Split, Task, UserError

MOST_WRONG = 1000  # misfits after which a manifest is read no further
MAX_TEXT = 4000  # characters in a question or an answer
MAX_LINE = 1_000_000  # bytes
REMEMBERED = 20_000  # decoded records of a manifest
BOM = b"\xef\xbb\xbf"  # that some editors begin a file with

CHOICES: Mapping[str, type[StrEnum]] = {"task": Task, "split": Split, "role": Role}
TASKS = tuple(Task)
SPLITS = tuple(Split)
NO_SPLIT = -1


class ImageRow(msgspec.Struct, forbid_unknown_fields=True):
    """A picture as the manifest writes it."""

    path: str
    role: Role
    view: str = "raw"
    sha256: str = ""


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """A record as the manifest writes it."""

    id: str
    task: Task
    group: str
    images: list[ImageRow]
    label: str = ""
    answer: str = ""
    question: str = ""
    options: dict[str, str] = {}
    split: Split | None = None
    meta: dict[str, str] = {}


def hash_name(name: str) -> int:
    """The 64-bit number that stands for a group or a picture path in the columns of a manifest."""
    return xxhash.xxh3_64_intdigest(name.encode())


@dataclass(frozen=True, slots=True, eq=False)
class Manifest(Sequence[Record]):
    """The records of a manifest, in its order; `labels` maps the user's label words to the tasks' labels.

    `tasks` (N,) and `splits` (N,) index TASKS and SPLITS (NO_SPLIT: not fixed by the manifest); `groups` (N,) and
    `pictures` (N, 2) are 64-bit hashes of names, a record with one picture having it twice.
    """

    path: Path
    labels: Mapping[str, str]
    tasks: NDArray[np.int8]
    splits: NDArray[np.int8]
    groups: NDArray[np.uint64]
    pictures: NDArray[np.uint64]
    _offsets: NDArray[np.int64]
    _lines: NDArray[np.int32]
    _bytes: mmap.mmap
    _known: dict[int, Record] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.path.parent

    def name(self, picture: Path) -> str:
        """A record's picture as its row names it: relative to the manifest. (`relative_to` takes ten times as long.)"""
        return picture.as_posix().removeprefix(f"{self.folder.as_posix().rstrip('/')}/")

    def place(self, index: int) -> str:
        """Where a record stands, for messages: "mine.jsonl:812"."""
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
        record = self._known.get(index)
        if record is None:
            start = int(self._offsets[index])
            end = self._bytes.find(b"\n", start)
            line = self._bytes[start : len(self._bytes) if end < 0 else end]
            record = _record(_decoder.decode(line), self.folder, self.labels)
            if len(self._known) < REMEMBERED:
                self._known[index] = record
        return record


_decoder = msgspec.json.Decoder(Row)


def open_manifest(
    path: Path,
    *,
    labels: Mapping[str, str] | None = None,
    views: Collection[str] = ("raw",),
    labelled: bool = True,
) -> Manifest:
    """Check the structure of every row and give the records lazily. Pictures are not opened.

    `views` are the views that this run can show. Without `labelled` a row may have no label: it is "" then. Raises
    UserError that names the bad rows by line, value and cure, each reason once. Reading stops after MOST_WRONG of them.
    """
    if not _is_file(path):
        raise UserError(f"{path}: there is no such manifest; give an existing JSON-lines file as source.path")
    facts = path.stat()
    if facts.st_size == 0:
        raise UserError(f"{path}: the manifest is empty; write one JSON record a line")
    version = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    return _scanned(path, version, tuple(sorted((labels or {}).items())), frozenset(views), labelled)


@lru_cache(maxsize=2)
def _scanned(
    path: Path, version: tuple[int, ...], pairs: tuple[tuple[str, str], ...], views: frozenset[str], labelled: bool
) -> Manifest:
    """The manifest, scanned once in a process as long as its file stays as it is."""
    labels = dict(pairs)
    scan = _Scan(path=path, labels=labels, views=views, labelled=labelled)
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        offset = 0
        if content[: len(BOM)] == BOM:
            content.seek(len(BOM))
            offset = len(BOM)
        for number, line in enumerate(iter(content.readline, b""), start=1):
            scan.add(line, number, offset)
            offset += len(line)
            if len(scan.misfits) >= MOST_WRONG:
                break
    if scan.misfits:
        stopped = len(scan.misfits) >= MOST_WRONG
        raise refusal(scan.misfits, cure=f"{path} was read no further than this" if stopped else "")
    if not scan.offsets:
        raise UserError(f"{path}: no record in it; write one JSON record a line")
    return Manifest(
        path=path,
        labels=labels,
        tasks=np.array(scan.tasks, dtype=np.int8),
        splits=np.array(scan.splits, dtype=np.int8),
        groups=np.array(scan.groups, dtype=np.uint64),
        pictures=np.array(scan.pictures, dtype=np.uint64).reshape(-1, 2),
        _offsets=np.array(scan.offsets, dtype=np.int64),
        _lines=np.array(scan.lines, dtype=np.int32),
        _bytes=content,
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


class _Scan:
    """One pass over the lines: columns of the good rows, messages for the bad ones."""

    def __init__(self, *, path: Path, labels: Mapping[str, str], views: frozenset[str], labelled: bool) -> None:
        self.path, self.labels, self.views, self.labelled = path, labels, views, labelled
        self.tasks, self.splits = array("b"), array("b")
        self.groups, self.pictures = array("Q"), array("Q")
        self.offsets, self.lines = array("q"), array("i")
        self.misfits: list[Misfit] = []
        self._line_of_id: dict[int, int] = {}
        self._task_index = {task: index for index, task in enumerate(TASKS)}
        self._split_index = {None: NO_SPLIT} | {split: index for index, split in enumerate(SPLITS)}

    def add(self, line: bytes, number: int, offset: int) -> None:
        if not line.strip():
            return
        row = self._decode(line, number)
        if row is None:
            return
        errors = list(row_errors(row, self.labels, self.views, labelled=self.labelled))
        seen = self._line_of_id.setdefault(hash_name(row.id), number)
        if seen != number:
            errors.append(f"id {row.id!r} stands in line {seen} already; give every record its own id")
        if errors:
            for error in errors:
                self._refuse(number, error)
            return
        self.offsets.append(offset)
        self.lines.append(number)
        self.tasks.append(self._task_index[row.task])
        self.splits.append(self._split_index[row.split])
        self.groups.append(hash_name(row.group))
        pictures = [hash_name(image.path) for image in row.images]
        self.pictures.extend((pictures[0], pictures[-1]))

    def _decode(self, line: bytes, number: int) -> Row | None:
        if len(line) > MAX_LINE:
            self._refuse(number, f"the line has {len(line)} bytes; a record may have {MAX_LINE}")
            return None
        try:
            return _decoder.decode(line)
        except UnicodeDecodeError as error:
            self._refuse(number, f"byte {error.start} of the line is not UTF-8; save the file as UTF-8")
        except msgspec.MsgspecError as error:
            where = "see 'Your own pictures' in the README for the format of a record"
            self._refuse(number, f"{error}{_choices(str(error))}; {where}")
        return None

    def _refuse(self, number: int, why: str) -> None:
        self.misfits.append(Misfit(place=f"{self.path}:{number}", why=why))


def _choices(message: str) -> str:
    """The words that a field takes, where another stands in it."""
    for name, words in CHOICES.items():
        if message.startswith("Invalid enum value") and message.endswith(f".{name}`"):
            return f", which is one of {', '.join(words)}"
    return ""


def row_errors(row: Row, labels: Mapping[str, str], views: Collection[str], *, labelled: bool = True) -> Iterator[str]:
    """What is wrong with a row, a sentence with its cure each; `labels` are the user's words, `views` those known.
    Without `labelled` a row may have no label."""
    for name, text in (("id", row.id), ("group", row.group)):
        if not text or len(text) > 200 or not text.isprintable():
            yield f"{name} {text[:60]!r} must be 1 to 200 printable characters; give another {name}"
    yield from _option_errors(row)
    yield from _label_errors(row, labels, labelled=labelled)
    for name, text in (("question", row.question), ("answer", row.answer)):
        if len(text) > MAX_TEXT:
            yield f"{name} has {len(text)} characters; at most {MAX_TEXT} are taken, shorten it"
    count, wanted = len(row.images), NUM_IMAGES[row.task]
    if count not in wanted:
        yield f"task {row.task} shows pictures: {' or '.join(map(str, wanted))}, the row has {count}; fix images"
    elif tuple(image.role for image in row.images) != (Role.REFERENCE, Role.QUERY)[-count:]:
        roles = ", ".join(image.role for image in row.images)
        yield f"roles are {roles}; task {row.task} takes {'the reference, then the query' if count > 1 else 'a query'}"
    for image in row.images:
        yield from _image_errors(image, views)


def _option_errors(row: Row) -> Iterator[str]:
    if row.task in LABELS:
        if row.options:
            yield f"task {row.task} takes no options; leave them out, or set the task to {Task.CHOOSE_OPTION}"
        return
    if not row.question:
        yield f"task {row.task} needs a question; give it one"
    if len(row.options) < 2:
        yield f"task {row.task} needs two options or more, the row has {len(row.options)}; fix options"
    for letter, text in row.options.items():
        if len(letter) != 1 or not letter.isalnum():
            yield f"option {letter[:60]!r} is not named by one letter or digit; name options A, B, C"
        if not text.strip() or len(text) > MAX_TEXT:
            yield f"option {letter[:60]} has {len(text)} characters; give it 1 to {MAX_TEXT}"


def _label(row: Row, labels: Mapping[str, str]) -> str:
    """The row's label in the task's words; the letter of an option stands for itself."""
    return labels.get(row.label, row.label) if row.task in LABELS else row.label


def _label_errors(row: Row, labels: Mapping[str, str], *, labelled: bool) -> Iterator[str]:
    known = LABELS[row.task] if row.task in LABELS else tuple(row.options)
    label = _label(row, labels)
    if not row.label:
        if labelled or row.answer:
            yield f"the row has no label; give it one of {', '.join(known)}"
    elif label not in known:
        yield f"label {row.label!r} is not one of {', '.join(known)}; fix the row or add it to source.labels"
    elif row.answer and not row.answer.startswith((row.label, label)):
        yield f"answer {row.answer[:60]!r} does not start with the label {row.label!r}; put the label first"


def _image_errors(image: ImageRow, views: Collection[str]) -> Iterator[str]:
    wrong = path_error(image.path)
    if wrong is not None:
        yield wrong
    if image.view not in views:
        yield (
            f"view {image.view!r} is not one of {', '.join(sorted(views))}; fix the row, or name the processed view "
            f"with view.name={image.view}"
        )


def _record(row: Row, folder: Path, labels: Mapping[str, str]) -> Record:
    label = _label(row, labels)
    rest = row.answer[len(row.label) :] if row.answer.startswith(row.label) else row.answer[len(label) :]
    images = tuple(
        ImageRef(path=folder / image.path, role=image.role, view=image.view, sha256=image.sha256)
        for image in row.images
    )
    return Record(
        id=row.id,
        task=row.task,
        images=images,
        answer=label + rest,
        label=label,
        group=row.group,
        question=row.question,
        options=row.options,
        split=row.split,
        meta=row.meta,
    )
