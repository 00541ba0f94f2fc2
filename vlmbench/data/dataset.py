"""From a manifest to the records of one run, and from a record to an opened sample."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmbench.data.manifest import SPLITS, TASKS, Manifest
from vlmbench.data.pictures import Picture, file_sha256, open_picture, place_of
from vlmbench.data.prompts import Wording
from vlmbench.files import sync
from vlmbench.types import LABELS, ImageRef, Record, Role, Sample, Split, Task, UserError

log = logging.getLogger(__name__)

RAW = "raw"
BLANK_GREY = (128, 128, 128)


@dataclass(frozen=True, slots=True, eq=False)
class Subset(Sequence[Record]):
    """Some of a manifest's records, each decoded when it is asked for; an index may occur more than once."""

    manifest: Manifest
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Subset: ...
    def __getitem__(self, index: int | slice) -> Record | Subset:
        if isinstance(index, slice):
            return Subset(self.manifest, self.indices[index])
        return self.manifest[int(self.indices[index])]

    def place(self, index: int) -> str:
        """Where a record stands, for messages."""
        return self.manifest.place(int(self.indices[index]))

    def tasks(self) -> dict[Task, int]:
        """How many records there are of each task that occurs."""
        counts = np.bincount(self.manifest.tasks[self.indices], minlength=len(TASKS))
        return {task: int(count) for task, count in zip(TASKS, counts, strict=True) if count}

    def groups(self) -> int:
        return len(np.unique(self.manifest.groups[self.indices]))


def side(manifest: Manifest, sides: NDArray[np.int8], split: Split) -> Subset:
    """The records of one side."""
    return Subset(manifest, np.flatnonzero(sides == SPLITS.index(split)).astype(np.int64))


def check_labels(records: Subset, split: Split, tasks: Collection[Task]) -> None:
    """Raise UserError where one of the tasks has only one label on a side: nothing could be learnt or measured."""
    labels: dict[Task, set[str]] = {task: set() for task in tasks}
    for record in records:
        if record.task in labels:
            labels[record.task].add(record.label)
            if all(len(found) == len(LABELS[task]) for task, found in labels.items()):
                return
    for task, found in labels.items():
        for missing in set(LABELS[task]) - found:
            raise UserError(
                f"{records.manifest.path}: no {task} record of the {split} side is {missing!r}; add such records, or "
                "more parts, or change data.split"
            )


def limit_records(records: Subset, limit: int | None) -> Subset:
    """At most `limit` records of each task and view, spread evenly over the side."""
    if limit is None:
        return records
    kinds: dict[tuple[Task, str], list[int]] = {}
    for position, record in enumerate(records):
        kinds.setdefault((record.task, record.view), []).append(position)
    chosen = [
        positions[int(i)]
        for positions in kinds.values()
        for i in np.linspace(0, len(positions) - 1, min(limit, len(positions))).round()
    ]
    return Subset(records.manifest, records.indices[sorted(chosen)])


class Viewer:
    """Shows pictures: raw as they are, processed ones from files that are made once and kept by content.

    Raw pictures must lie in `folder`, unless it is None.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        name: str,
        process: Callable[[Image.Image], Image.Image],
        fingerprint: str,
        cache: Path,
    ) -> None:
        self._folder, self._name, self._process = folder, name, process
        self._cache = cache / "views" / fingerprint
        self._shown: dict[Path, Path] = {}

    def path(self, image: ImageRef) -> Path | None:
        """The file of the picture as shown; None for a blank one."""
        if image.blank:
            return None
        if image.view == RAW:
            return image.path
        if image.view != self._name:
            raise UserError(f"{image.path}: view {image.view!r} is not one of {RAW}, {self._name}; set view.name")
        if image.path not in self._shown:
            self._shown[image.path] = self._processed(image.path)
        return self._shown[image.path]

    def open(self, image: ImageRef) -> Image.Image:
        """The picture as shown, RGB."""
        shown = self.path(image)
        if shown is None:
            size = open_picture(image.path, inside=self._folder).size
            return Image.new("RGB", size, BLANK_GREY)
        if shown == image.path:
            return open_picture(shown, inside=self._folder)
        try:
            return open_picture(shown)
        except UserError as error:
            log.warning("%s; it is processed again", error)
            shown.unlink(missing_ok=True)
            return open_picture(self._processed(image.path))

    def picture(self, image: ImageRef, *, of: str) -> Picture:
        """The picture as shown, to be opened later: an error then names the record `of`."""
        shown = self.path(image)
        inside = self._folder if shown == image.path else None
        return Picture(partial(self._open_for, of, image), place=None if shown is None else place_of(shown, inside))

    def _open_for(self, record: str, image: ImageRef) -> Image.Image:
        with naming(record):
            return self.open(image)

    def _processed(self, path: Path) -> Path:
        raw = open_picture(path, inside=self._folder)
        target = self._cache / f"{file_sha256(path)}.png"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(f".{target.stem}.{os.getpid()}.png")
            try:
                self._process(raw).save(unfinished)
                sync(unfinished)
                unfinished.replace(target)
            finally:
                unfinished.unlink(missing_ok=True)
        return target


def reference_pictures(records: Subset, most: int = 256) -> list[Path]:
    """The raw reference pictures of records, once each, the first `most` in the order of their names."""
    pictures = {
        image.path
        for record in records
        for image in record.images
        if image.role is Role.REFERENCE and image.view == RAW
    }
    return sorted(pictures)[:most]


@contextmanager
def naming(record: str) -> Iterator[None]:
    """A UserError from within names the record."""
    try:
        yield
    except UserError as error:
        raise UserError(f"record {record!r}: {error}") from error


def open_sample(record: Record, *, viewer: Viewer, wording: Wording) -> Sample:
    """The record worded, its pictures ready to be opened. Raises UserError that names the record, now or then."""
    with naming(record.id):
        images = tuple(viewer.picture(image, of=record.id) for image in record.images)
    return Sample(record=record, images=images, question=wording.question(record), answer=wording.answer(record))


def without_pictures(record: Record, *, wording: Wording) -> Sample:
    """The record worded but with no picture opened, for counting tokens."""
    return Sample(record=replace(record), images=(), question=wording.question(record), answer=wording.answer(record))
