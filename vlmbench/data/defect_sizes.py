"""The areas of marked defects beside a manifest, and how large a model sees them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from vlmbench.data.images import ImageFacts
from vlmbench.data.lines import read_error
from vlmbench.data.manifest import Manifest, hash_name
from vlmbench.data.paths import is_plain_file
from vlmbench.data.prepared import MANIFEST
from vlmbench.data.tiles import Tiler
from vlmbench.types import Box

FILE = "defects.json"
MAX_BYTES = 200_000_000
TILES = (1024, 768, 512, 384, 256, 192, 128)  # edges that are offered, in pixels
MIN_EDGE = 8  # pixels of a model's input: a smaller defect is hardly seen

Size = tuple[int, int]
Area = tuple[Box, ...]  # a defect: boxes that lie close around its pixels
Edge = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class DefectRow(msgspec.Struct):
    """The defects of an image: (width, height) of each, and its area, in pixels of the image.

    Folders that were prepared before there were tiles have no areas.
    """

    image: str
    sizes: list[tuple[Edge, Edge]]
    areas: list[list[tuple[Edge, Edge, Edge, Edge]]] = []


def write_defect_areas(folder: Path, areas: Mapping[str, Sequence[Area]]) -> None:
    """Write the defects' areas by image, relative to `folder`. No areas: no file."""
    rows = [
        {"image": name, "sizes": [size_of(area) for area in found], "areas": found}
        for name, found in areas.items()
        if found
    ]
    if rows:
        text = json.dumps(rows, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read_defect_areas(manifest: Path) -> dict[Path, list[Area]]:
    """Return the areas of the defects of each marked image beside a prepared manifest."""
    return {
        manifest.parent / row.image: [tuple(area) for area in row.areas]
        for row in _read(manifest)
        if row.areas
    }


def size_of(area: Area) -> Size:
    """Return (width, height) of a defect."""
    left, top = min(box[0] for box in area), min(box[1] for box in area)
    right, bottom = max(box[0] + box[2] for box in area), max(box[1] + box[3] for box in area)
    return right - left, bottom - top


def describe_visibility(
    manifest: Manifest,
    facts: Mapping[int, ImageFacts],
    shown_size: Callable[[Size], Size] | None,
    *,
    tiler: Tiler | None = None,
) -> list[str]:
    """Return a sentence on the defects that are too small for the model to see; [] if there are
    none.

    `shown_size` returns the size in pixels in which the model sees an image of a size. None: it is
    not known. `tiler` cuts the images before; None: the model sees them whole.
    """
    rows = [
        (row, facts[key]) for row in _read(manifest.path) if (key := hash_name(row.image)) in facts
    ]
    if not rows or shown_size is None:
        return []

    sizes = [((fact.width, fact.height), defect) for row, fact in rows for defect in row.sizes]
    edge = None if tiler is None else tiler.edge
    small = _small_defects(sizes, shown_size, edge)
    if not small:
        return []

    seen, size = min(small)
    shown = shown_size(size)
    what = "an image" if tiler is None else "a tile"
    return [
        f"{len(small)} of {len(sizes)} marked defects ({len(small) / len(sizes):.0%}) have an edge "
        f"under {MIN_EDGE} pixels as the model sees them, the smallest {seen:.1f}: {what} of "
        f"{size[0]} x {size[1]} pixels is shown as {shown[0]} x {shown[1]}. "
        f"{_cure(sizes, shown_size, edge, len(small))}"
    ]


def _small_defects(
    sizes: Sequence[tuple[Size, Size]],
    shown_size: Callable[[Size], Size],
    edge: int | None,
) -> list[tuple[float, Size]]:
    """Return the edge of each small defect as the model sees it, and the size that is shown.

    `sizes` are those of the image and of the defect. Images are cut into tiles of `edge` pixels.
    """
    small: list[tuple[float, Size]] = []
    for (width, height), defect in sizes:
        size = (width, height) if edge is None else (min(edge, width), min(edge, height))
        shown = shown_size(size)
        seen = min(defect) * min(shown[0] / size[0], shown[1] / size[1])
        if seen < MIN_EDGE:
            small.append((seen, size))
    return small


def _cure(
    sizes: Sequence[tuple[Size, Size]],
    shown_size: Callable[[Size], Size],
    edge: int | None,
    num_small: int,
) -> str:
    """Return what shows the small defects larger: tiles, if these show more of them."""
    for tile in TILES:
        left = len(_small_defects(sizes, shown_size, tile))
        if left <= num_small // 10 and (edge is None or tile < edge):
            rest = f", which leaves {left} of them" if left else ""
            return f"Set view.tile={tile}{rest}"
    return (
        "Crop the photos around the part, or take a model with more pixels, such as model=phi3 "
        "with model.num_crops=16"
    )


def _read(manifest: Path) -> list[DefectRow]:
    """Return the sizes beside a manifest that vlmbench prepared; [] if there are none."""
    path = manifest.with_name(FILE)
    if manifest.name != MANIFEST or not is_plain_file(path) or path.stat().st_size > MAX_BYTES:
        return []

    try:
        return msgspec.json.decode(path.read_bytes(), type=list[DefectRow])
    except OSError as error:
        raise read_error(path, error) from error
    except (msgspec.DecodeError, UnicodeDecodeError):  # it says nothing that a run depends on
        return []
