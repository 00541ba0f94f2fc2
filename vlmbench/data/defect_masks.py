"""Small masks of the marked defects beside a manifest: where a heat map should be hot."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlmbench.data.lines import read_error
from vlmbench.data.paths import is_plain_file
from vlmbench.data.prepared import MANIFEST

FILE = "defect_masks.json"
MAX_BYTES = 200_000_000
EDGE = 96  # rows or columns of a small mask; a heat map has at most 48

Mask = NDArray[np.bool_]  # (rows, columns)
Count = Annotated[int, msgspec.Meta(ge=1, le=EDGE)]


class _MaskRow(msgspec.Struct):
    """The mask of an image: `bits` are rows * columns packed bits in base64."""

    image: str
    rows: Count
    columns: Count
    bits: str


def shrink_mask(mask: Mask, rows: int, columns: int) -> Mask:
    """Return the mask on a grid (rows, columns). A square is marked if any of its pixels is.

    A smaller mask is enlarged.
    """
    height, width = mask.shape
    bands = np.stack([mask[start:end].any(0) for start, end in _bounds(height, rows)])
    return np.stack([bands[:, start:end].any(1) for start, end in _bounds(width, columns)], 1)


def _bounds(length: int, number: int) -> Iterator[tuple[int, int]]:
    """Yield the first pixel and the end of each of `number` equal parts; both round outwards."""
    for index in range(number):
        yield index * length // number, -(-(index + 1) * length // number)


def small_mask(mask: Mask) -> Mask:
    """Return the mask with at most EDGE rows and columns."""
    rows, columns = mask.shape
    return shrink_mask(mask, min(rows, EDGE), min(columns, EDGE))


def write_defect_masks(folder: Path, masks: Mapping[str, Mask]) -> None:
    """Write the small masks by image, relative to `folder`. No masks: no file."""
    rows = []
    for name, small in masks.items():
        row = {
            "image": name,
            "rows": small.shape[0],
            "columns": small.shape[1],
            "bits": base64.b64encode(np.packbits(small).tobytes()).decode("ascii"),
        }
        rows.append(row)

    if rows:
        text = json.dumps(rows, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read_defect_masks(manifest: Path) -> dict[Path, Mask]:
    """Return the small mask of each image beside a manifest that vlmbench prepared.

    The result is empty if there are none, or if the file is damaged: no answer depends on it.
    """
    path = manifest.with_name(FILE)
    if manifest.name != MANIFEST or not is_plain_file(path) or path.stat().st_size > MAX_BYTES:
        return {}

    try:
        rows = msgspec.json.decode(path.read_bytes(), type=list[_MaskRow])
        return {manifest.parent / row.image: _unpack(row) for row in rows}
    except OSError as error:
        raise read_error(path, error) from error
    except ValueError:  # of msgspec, base64 and numpy
        return {}


def _unpack(row: _MaskRow) -> Mask:
    raw = np.frombuffer(base64.b64decode(row.bits, validate=True), np.uint8)
    number = row.rows * row.columns
    if raw.size != -(-number // 8):
        raise ValueError(f"{raw.size} bytes for {number} bits")
    return np.unpackbits(raw, count=number).astype(np.bool_).reshape(row.rows, row.columns)
