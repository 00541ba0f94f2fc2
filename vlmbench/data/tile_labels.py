"""Label tiles by the marked defects that they show, and word their answers.

A tile is abnormal if it shows a marked defect. A tile that shows only a sliver of one is neither
normal nor abnormal, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.defect_sizes import Area
from vlmbench.data.photos.regions import describe_region
from vlmbench.types import LABELS, Box, Record

MIN_SHARE = 0.25  # of a defect: a tile that shows as much of it is abnormal
MIN_COVER = 0.01  # of a tile: a tile that a defect covers by as much is abnormal
GRID = 90  # rows and columns on which a defect in a tile is drawn, a multiple of 3
NORMAL, ABNORMAL, SLIVER, WHOLE = range(4)  # what a tile shows; WHOLE keeps the record's label


def label_tiles(boxes: Sequence[Box], areas: Sequence[Area]) -> NDArray[np.int8]:
    """Return what each tile shows of the defects: NORMAL, ABNORMAL or SLIVER.

    The tile that shows the most of a defect is abnormal, however little that is.
    """
    tiles = np.asarray(boxes)
    shows = np.full(len(tiles), NORMAL, np.int8)
    covered = np.zeros(len(tiles))
    is_abnormal = np.zeros(len(tiles), np.bool_)
    for area in areas:
        pieces = np.asarray(area)
        pixels = _shared_pixels(tiles, pieces).sum(1)
        covered += pixels
        most = max(pixels.max(), 1)
        is_abnormal |= (pixels >= most) | (pixels >= MIN_SHARE * pieces[:, 2:].prod(1).sum())

    is_abnormal |= covered >= MIN_COVER * tiles[:, 2:].prod(1)
    shows[covered > 0] = SLIVER
    shows[is_abnormal] = ABNORMAL
    return shows


def _shared_pixels(tiles: NDArray[np.int64], pieces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pixels that each tile shares with each piece, (tiles, pieces)."""
    starts = np.maximum(tiles[:, None, :2], pieces[None, :, :2])
    ends = np.minimum(
        tiles[:, None, :2] + tiles[:, None, 2:], pieces[None, :, :2] + pieces[None, :, 2:]
    )
    shared: NDArray[np.int64] = np.maximum(ends - starts, 0).prod(-1)
    return shared


def tile_labels(
    record: Record, boxes: Sequence[Box], areas: Sequence[Area]
) -> NDArray[np.int8] | None:
    """Return what the tiles of a record show; None if it is abnormal and no defect is marked."""
    if not boxes:
        return np.full(1, WHOLE, np.int8)
    if record.label == LABELS[record.task][0]:
        return np.full(len(boxes), NORMAL, np.int8)
    return label_tiles(boxes, areas) if areas else None


def as_normal(tile: Record) -> Record:
    """Return a tile without defect, with the words of its label alone."""
    normal = LABELS[tile.task][0]
    if tile.label == normal:
        return tile

    meta = {key: value for key, value in tile.meta.items() if key not in ("defect", "region")}
    return replace(tile, label=normal, answer=normal, meta=meta)


def with_own_region(tile: Record, areas: Sequence[Area]) -> Record:
    """Return an abnormal tile whose answer says where in the tile the defect is."""
    region = tile.meta.get("region")
    box = tile.images[-1].box
    if not region or box is None or not tile.answer.endswith(region):
        return tile

    own = describe_region(_draw(box, areas))
    answer = tile.answer.removesuffix(region) + own
    return replace(tile, answer=answer, meta={**tile.meta, "region": own})


def _draw(box: Box, areas: Sequence[Area]) -> NDArray[np.bool_]:
    """Return the defects in a tile on a grid (GRID, GRID)."""
    marked = np.zeros((GRID, GRID), np.bool_)
    for left, top, width, height in (piece for area in areas for piece in area):
        x0, x1 = (left - box[0]) * GRID / box[2], (left + width - box[0]) * GRID / box[2]
        y0, y1 = (top - box[1]) * GRID / box[3], (top + height - box[1]) * GRID / box[3]
        if x1 > 0 and y1 > 0:
            rows = slice(max(0, int(y0)), int(np.ceil(y1)))
            marked[rows, max(0, int(x0)) : int(np.ceil(x1))] = True
    return marked
