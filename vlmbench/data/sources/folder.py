"""Folders of your own photos: good/ and bad/ become pairs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from vlmbench.config import SourceConfig, check_range, schema
from vlmbench.data.pictures import FORMATS, file_sha256, picture_size
from vlmbench.data.prepared import prepared_folder, write_manifest
from vlmbench.types import ImageRef, Record, Role, Task, UserError

RAW = "raw"
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What the prepared folder depends on."""

    settings: dict[str, Any]
    photos: tuple[tuple[str, str], ...]  # path within the folder, sha256


@schema("source", "folder")
@dataclass(kw_only=True)
class FolderConfig(SourceConfig):
    """The photos are dealt into lots. Each lot keeps some good photos as its references, and every other photo of the
    lot is compared with one of them: no picture is ever shared between lots, so lots can be split.

    Photos of one part may be told by their name: what stands before the last "_" (part7_3.png) keeps them in one lot.
    """

    path: str = MISSING
    processed_view: str | None = "rt"
    references: int = 2
    lots: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("source.references", self.references, 1)
        check_range("source.lots", self.lots, 3)

    def prepare(self, data_dir: Path) -> Path:
        root = Path(self.path)
        photos = {label: _photos(root / name) for label, name in (("normal", "good"), ("abnormal", "bad"))}
        for paths in photos.values():
            for path in paths:
                picture_size(path, inside=root)  # before all of a file is read that may be anything
        hashes = [(path.relative_to(root).as_posix(), file_sha256(path)) for paths in photos.values() for path in paths]
        content = _Content(settings=asdict(self), photos=tuple(hashes))
        return prepared_folder(data_dir, "folder", content, lambda folder: self._fill(folder, root, photos))

    def _fill(self, folder: Path, root: Path, photos: dict[str, list[Path]]) -> None:
        copies = {}
        for paths in photos.values():
            for path in paths:
                target = folder / "img" / path.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                copies[path] = (target, file_sha256(target))
        write_manifest(folder, self._records(photos, copies))

    def _records(self, photos: dict[str, list[Path]], copies: dict[Path, tuple[Path, str]]) -> Iterator[Record]:
        good, bad = (self._deal(photos[label], label) for label in ("normal", "abnormal"))
        for lot in range(self.lots):
            if len(good[lot]) <= self.references:
                raise UserError(
                    f"{self.path}: lot {lot} has {len(good[lot])} good photos, of which {self.references} are "
                    "references and none is left to judge; add good photos, or lower source.lots or source.references"
                )
            references, rest = good[lot][: self.references], good[lot][self.references :]
            queries = [(path, "normal") for path in rest] + [(path, "abnormal") for path in bad[lot]]
            for number, (path, label) in enumerate(queries):
                reference = copies[references[number % len(references)]]
                yield from self._judged(f"{label}-{path.stem}", lot, label, reference, copies[path])

    def _deal(self, paths: Sequence[Path], label: str) -> list[list[Path]]:
        """Photos of one part together, parts in random order to the lot that has the fewest photos."""
        parts: dict[str, list[Path]] = {}
        for path in paths:
            parts.setdefault(path.stem.rpartition("_")[0] or path.stem, []).append(path)
        rng = np.random.default_rng([self.seed, len(label)])
        lots: list[list[Path]] = [[] for _ in range(self.lots)]
        for name in rng.permutation(sorted(parts)).tolist():
            min(lots, key=len).extend(parts[name])
        return lots

    def _judged(
        self, name: str, lot: int, label: str, reference: tuple[Path, str], query: tuple[Path, str]
    ) -> Iterator[Record]:
        """The tasks that a reference and a query photo give."""
        processed = self.processed_view if self.processed_view != RAW else None
        shown = [(Task.JUDGE_PAIR, RAW, RAW), (Task.JUDGE_SINGLE, None, RAW)]
        if processed is not None:
            shown += [
                (Task.JUDGE_PAIR, processed, processed),
                (Task.JUDGE_SINGLE, None, processed),
                (Task.JUDGE_LINK, RAW, processed),
            ]
        for task, reference_view, query_view in shown:
            images = [_shown(query, Role.QUERY, query_view)]
            if reference_view is not None:
                images.insert(0, _shown(reference, Role.REFERENCE, reference_view))
            yield Record(
                id=f"{name}-{task}-{query_view}",
                task=task,
                images=tuple(images),
                answer=label,
                label=label,
                group=f"lot-{lot:02d}",
            )


def _shown(copy: tuple[Path, str], role: Role, view: str) -> ImageRef:
    return ImageRef(path=copy[0], role=role, view=view, sha256=copy[1])


def _photos(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of their names. Raises UserError where there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; put photos into good/ and bad/ of source.path")
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    for path in paths:
        if not path.name.isprintable():  # bytes that are no text are not either
            raise UserError(f"{folder}: the name {path.name!r} has characters that cannot be printed; rename the file")
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path}: not a picture by its name; convert it to one of {', '.join(sorted(SUFFIXES))}")
    if not paths:
        raise UserError(f"{folder}: the folder is empty; put photos into it")
    return paths
