"""The sizes of marked defects beside a manifest, and how large a model sees them."""

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

FILE = "defects.json"
MAX_BYTES = 200_000_000
MIN_EDGE = 8  # pixels of a model's input: a smaller defect is hardly seen

Size = tuple[int, int]
Edge = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class DefectRow(msgspec.Struct):
    """The defects of an image: (width, height) of each in pixels of the image."""

    image: str
    sizes: list[tuple[Edge, Edge]]


def write_defect_sizes(folder: Path, sizes: Mapping[str, Sequence[Size]]) -> None:
    """Write the defects' sizes by image, relative to `folder`. No sizes: no file."""
    rows = [{"image": name, "sizes": found} for name, found in sizes.items() if found]
    if rows:
        text = json.dumps(rows, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def describe_visibility(
    manifest: Manifest,
    facts: Mapping[int, ImageFacts],
    shown_size: Callable[[Size], Size] | None,
) -> list[str]:
    """Return a sentence on the defects that are too small for the model to see; [] if there are
    none.

    `shown_size` returns the size in pixels in which the model sees an image of a size. None: it is
    not known.
    """
    rows = _read(manifest.path)
    if not rows or shown_size is None:
        return []

    num_defects, num_small = 0, 0
    smallest: tuple[float, Size, Size] | None = None
    for row in rows:
        fact = facts.get(hash_name(row.image))
        if fact is None:
            continue

        size = fact.width, fact.height
        shown = shown_size(size)
        scale = min(shown[0] / size[0], shown[1] / size[1])
        for width, height in row.sizes:
            edge = min(width, height) * scale
            num_defects += 1
            num_small += edge < MIN_EDGE
            smallest = min(smallest or (edge, size, shown), (edge, size, shown))

    if num_small == 0 or smallest is None:
        return []

    edge, size, shown = smallest
    return [
        f"{num_small} of {num_defects} marked defects ({num_small / num_defects:.0%}) have an edge "
        f"under {MIN_EDGE} pixels as the model sees them, the smallest {edge:.1f}: an image of "
        f"{size[0]} x {size[1]} pixels is shown as {shown[0]} x {shown[1]}. Crop the photos around "
        "the part, or take a model with more pixels, such as model=phi3 with model.num_crops=16"
    ]


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
