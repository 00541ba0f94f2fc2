"""The tiles of a run's records, for training, and the numbers that the report says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmbench.config import ViewConfig
from vlmbench.data.defect_sizes import FILE, Area, read_defect_areas
from vlmbench.data.images import ImageFacts
from vlmbench.data.invalid_rows import MAX_ERRORS
from vlmbench.data.load import Data
from vlmbench.data.manifest import NO_SPLIT, SPLITS, Indices, Manifest, hash_name
from vlmbench.data.paths import is_plain_file
from vlmbench.data.prepared import removal_cure
from vlmbench.data.records import Subset
from vlmbench.data.tile_labels import (
    ABNORMAL,
    NORMAL,
    SLIVER,
    WHOLE,
    as_normal,
    tile_labels,
    with_own_region,
)
from vlmbench.data.tiles import Tiler, make_tiler
from vlmbench.system.text import counted
from vlmbench.types import JUDGING, LABELS, Record, Split, Task, UserError

Kind = tuple[Task, str]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TiledManifest(Manifest):
    """The tiles of another manifest's records, in their order.

    `rows` (N,) are the records, `boxes` (N, 4) the locations in the query, and `shows` (N,) what
    each tile shows. `areas` are those of the defects by image.
    """

    base: Manifest
    tiler: Tiler
    areas: Mapping[Path, Sequence[Area]]
    rows: Indices
    boxes: NDArray[np.int32]
    shows: NDArray[np.int8]

    def location(self, index: int) -> str:
        """Return the file and line of a tile's record, for messages."""
        return self.base.location(int(self.rows[index]))

    def tiles_of(self, records: Subset) -> Subset:
        """Return the tiles of records of the other manifest."""
        return Subset(self, np.flatnonzero(np.isin(self.rows, records.indices)))

    def _decode(self, index: int) -> Record:
        record = self.base[int(self.rows[index])]
        shows = int(self.shows[index])
        if not self.boxes[index].any():
            return record

        x, y, width, height = self.boxes[index].tolist()
        tile = self.tiler.at(record, (x, y, width, height))
        if shows == NORMAL:
            return as_normal(tile)
        if shows == ABNORMAL:
            return with_own_region(tile, self.areas[record.images[-1].path])
        return tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A run's data as the model sees them: tiles, if images are cut as `view` says."""

    data: Data
    view: ViewConfig
    tiler: Tiler | None = None

    def tiles_of(self, records: Subset) -> Subset:
        """Return the tiles of a run's records; the records themselves if nothing is cut."""
        manifest = self.data.manifest
        return manifest.tiles_of(records) if isinstance(manifest, TiledManifest) else records

    def notes(self, train: Subset) -> list[str]:
        """Return what the report says about the tiles. `train` are the records that train."""
        manifest = self.data.manifest
        return _notes(manifest, train, self.view) if isinstance(manifest, TiledManifest) else []


def show_data(data: Data, view: ViewConfig, *, seed: int) -> Shown:
    """Return the data as the model sees them.

    Raise UserError that names abnormal records to train on without a marked defect, and records
    whose images have different shapes.
    """
    tiler = make_tiler(view, data.size)
    if tiler is None:
        return Shown(data=data, view=view)

    manifest = tile_manifest(data, tiler)
    train = _without_slivers(manifest, manifest.tiles_of(data.train))
    if view.normal_tiles is not None:
        train = _thin(manifest, train, view.normal_tiles, seed=seed)
    tiled = replace(
        data,
        manifest=manifest,
        train=train,
        val=_without_slivers(manifest, manifest.tiles_of(data.val)),
        test=manifest.tiles_of(data.test),
    )
    return Shown(data=tiled, view=view, tiler=tiler)


def count_tiles(manifest: Manifest, facts: Mapping[int, ImageFacts], view: ViewConfig) -> str:
    """Return in words how many tiles a manifest's records have; "" if nothing is cut.

    Raise UserError that names records whose images have different shapes.
    """
    if view.tile is None:
        return ""

    def size_of(path: Path) -> tuple[int, int]:
        fact = facts[hash_name(manifest.image_name(path))]
        return fact.width, fact.height

    tiler = Tiler(edge=view.tile, overlap=view.overlap, size_of=size_of)
    counts = [len(tiler.boxes(record)) for record in manifest]
    num_cut = sum(count > 0 for count in counts)
    return (
        f"view.tile={view.tile} cuts {num_cut:,} of {counted(len(counts), 'record')} into "
        f"{counted(sum(counts), 'tile')}"
    )


def tile_manifest(data: Data, tiler: Tiler) -> TiledManifest:
    """Return the tiles of all records. Raise UserError as `show_data` does."""
    base = data.manifest
    splits = np.full(len(base), NO_SPLIT, np.int8)
    for index, split in enumerate(SPLITS):
        splits[getattr(data, split.value).indices] = index
    trained = np.isin(splits, [SPLITS.index(Split.TRAIN), SPLITS.index(Split.VAL)])

    areas = read_defect_areas(base.path)
    rows: list[NDArray[np.int64]] = []
    boxes: list[NDArray[np.int32]] = []
    shows: list[NDArray[np.int8]] = []
    errors: list[str] = []
    unmarked: list[int] = []
    for row, record in enumerate(base):
        try:
            locations = tiler.boxes(record)
        except UserError as error:
            errors.append(f"{base.location(row)}: {error}")
            continue

        found = areas.get(record.images[-1].path, ())
        label = tile_labels(record, locations, found) if trained[row] else None
        if trained[row] and label is None:
            unmarked.append(row)
            continue
        rows.append(np.full(max(1, len(locations)), row))
        boxes.append(np.array(locations or [(0, 0, 0, 0)], np.int32))
        shows.append(np.full(len(rows[-1]), WHOLE, np.int8) if label is None else label)

    if unmarked:
        errors.append(_unmarked_error(base, unmarked))
    if errors:
        raise UserError("\n".join(errors[:MAX_ERRORS]))

    all_rows = np.concatenate(rows)
    return TiledManifest(
        path=base.path,
        labels=base.labels,
        tasks=base.tasks[all_rows],
        splits=base.splits[all_rows],
        groups=base.groups[all_rows],
        images=base.images[all_rows],
        planted=base.planted[all_rows],
        warnings=base.warnings,
        _rows=base._rows,
        base=base,
        tiler=tiler,
        areas=areas,
        rows=all_rows,
        boxes=np.concatenate(boxes),
        shows=np.concatenate(shows),
    )


def _unmarked_error(manifest: Manifest, rows: Sequence[int]) -> str:
    first = f"{manifest.location(rows[0])}: record {manifest[rows[0]].id!r}"
    others = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
    problem = f"{first} is abnormal{others}, but no box or mask says which of its tiles show that"
    sizes = manifest.path.with_name(FILE)
    if is_plain_file(sizes) and not read_defect_areas(manifest.path):
        cure = f"an earlier version prepared the folder; {removal_cure(manifest.folder)}"
    else:
        cure = (
            "mark the defects for source=folder (source.annotations=masks), or set view.tile=null"
        )
    return f"{problem}; {cure}"


def _without_slivers(manifest: TiledManifest, tiles: Subset) -> Subset:
    shows = manifest.shows[tiles.indices]
    return Subset(manifest, tiles.indices[shows != SLIVER])


def _thin(manifest: TiledManifest, tiles: Subset, normal_tiles: float, *, seed: int) -> Subset:
    """Return the tiles with `normal_tiles` normal ones for each abnormal one of a task and view.

    They are drawn at random.
    """
    by_kind: dict[Kind, list[int]] = {}
    abnormal: Counter[Kind] = Counter()
    for index, record in zip(tiles.indices.tolist(), tiles, strict=True):
        kind = record.task, record.view
        if record.task in JUDGING:
            abnormal[kind] += record.label == LABELS[record.task][1]
        if manifest.shows[index] == NORMAL:
            by_kind.setdefault(kind, []).append(index)

    rng = np.random.default_rng(seed)
    left_out: list[int] = []
    for kind, indices in by_kind.items():
        most = max(1, round(normal_tiles * abnormal[kind]))
        left_out += [indices[slot] for slot in rng.permutation(len(indices))[most:]]
    return Subset(manifest, np.setdiff1d(tiles.indices, left_out))


def _notes(manifest: TiledManifest, train: Subset, view: ViewConfig) -> list[str]:
    shows = np.bincount(manifest.shows[train.indices], minlength=WHOLE + 1).tolist()
    if not (shows[NORMAL] or shows[ABNORMAL]):
        return [f"no image is larger than a tile of {view.tile} pixels; view.tile changes nothing"]

    abnormal = counted(shows[ABNORMAL], "abnormal tile")
    normal = counted(shows[NORMAL], "normal tile")
    kept = "null" if view.normal_tiles is None else f"{view.normal_tiles:g}"
    return [
        f"images are cut into tiles of {view.tile} pixels with an overlap of {view.overlap:.0%}: "
        f"{abnormal} and {normal} train (view.normal_tiles={kept}). Tiles with "
        "only a sliver of a defect do not train. Each figure counts whole records, not tiles: "
        "the most suspicious tile of a record decides"
    ]
