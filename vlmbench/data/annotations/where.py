"""Describe where the marked defects of a photo are, in words and in pixels."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.annotations.marks import Box, Mark
from vlmbench.data.annotations.masks import upright_mask
from vlmbench.data.defect_sizes import Area
from vlmbench.data.images import file_version, image_size, turn_upright
from vlmbench.data.photos.regions import describe_region
from vlmbench.types import Box as PixelBox

GRID = 300  # pixels of the square on which boxes are drawn: a multiple of 3
MAX_WORDS = 4  # kinds of defects that an answer names
PIECE = 64  # pixels: the edge of the squares that a mask's area is told by
MAX_PIECES = 32  # along an edge of an area
MAX_AREAS = 1000  # of a mask: one with more has noise, and a million areas take minutes

# Regions by file versions and boxes: a run needs each region several times.
_regions: dict[Hashable, str] = {}


def describe_marks(marks: Sequence[Mark], photo: Path, root: Path) -> str:
    """Return the region of the marks together, in words; "" without a position."""
    masks = [mark.mask for mark in marks if mark.mask is not None]
    boxes = [mark.box for mark in marks if mark.box is not None]
    if not masks and not boxes:
        return ""

    versions = (file_version(path, root) for path in (photo, *masks))
    key = (*versions, *boxes)
    if key not in _regions:
        marked = marked_area(marks, photo, root)
        _regions[key] = "" if marked is None else describe_region(marked)

    return _regions[key]


def marked_area(marks: Sequence[Mark], photo: Path, root: Path) -> NDArray[np.bool_] | None:
    """Return where the marks of the upright photo are; None without a position.

    Masks give (height, width) of the photo. Boxes without any mask give (GRID, GRID).
    """
    masks = [mark.mask for mark in marks if mark.mask is not None]
    boxes = [mark.box for mark in marks if mark.box is not None]
    if not masks and not boxes:
        return None
    if not masks:
        return turn_upright(_draw(boxes), photo, inside=root)

    marked = upright_mask(masks[0], photo, root)
    for mask in masks[1:]:
        marked = marked | upright_mask(mask, photo, root)
    return marked


def join_words(marks: Sequence[Mark]) -> str:
    """Return the words of the marks: "scratch", or "scratch and hole"."""
    words = list(dict.fromkeys(mark.word for mark in marks if mark.word))
    return " and ".join(words[:MAX_WORDS])


def defect_areas(marks: Sequence[Mark], photo: Path, root: Path) -> list[Area]:
    """Return where each marked defect is, in pixels of the upright photo.

    A mask's defects are its connected white areas.
    """
    areas: list[Area] = []
    boxes = [mark.box for mark in marks if mark.box is not None]
    if boxes:
        areas += _upright_boxes(boxes, photo, root)
    for mark in marks:
        if mark.mask is not None:
            areas += _white_areas(upright_mask(mark.mask, photo, root))

    return areas


def _upright_boxes(boxes: Sequence[Box], photo: Path, root: Path) -> Iterator[Area]:
    """Yield each box of the stored photo in pixels of the upright photo."""
    width, height = image_size(photo, inside=root)
    # The corners of the stored photo are numbered, to see where they are upright.
    corners = turn_upright(np.array([[0, 1], [2, 3]]), photo, inside=root)
    origin, right, down = (np.argwhere(corners == number)[0, ::-1] for number in (0, 1, 2))
    if origin[0] == right[0]:  # a quarter turn
        width, height = height, width

    for left, top, end, bottom in boxes:
        points = [
            origin + x * (right - origin) + y * (down - origin)
            for x, y in ((left, top), (end, bottom))
        ]
        (x0, y0), (x1, y1) = np.sort(points, axis=0).tolist()
        yield (
            (
                min(round(x0 * width), width - 1),
                min(round(y0 * height), height - 1),
                max(1, round((x1 - x0) * width)),
                max(1, round((y1 - y0) * height)),
            ),
        )


def _white_areas(marked: NDArray[np.bool_]) -> Iterator[Area]:
    """Yield the connected areas of a mask, each in pieces that lie close around its pixels.

    More than MAX_AREAS count as one.
    """
    from scipy import ndimage  # late: the import takes 0.5 s

    numbered, num_areas = ndimage.label(marked, np.ones((3, 3)))
    if num_areas > MAX_AREAS:
        yield area_of(marked)
        return

    for number, area in enumerate(ndimage.find_objects(numbered), 1):
        yield area_of(numbered[area] == number, top=area[0].start, left=area[1].start)


def area_of(pixels: NDArray[np.bool_], *, top: int = 0, left: int = 0) -> Area:
    """Return the pixels of a defect in pieces. The first pixel is at `top` and `left`."""
    step = max(PIECE, -(-max(pixels.shape) // MAX_PIECES))
    return tuple(_pieces(pixels, step, top=top, left=left))


def _pieces(pixels: NDArray[np.bool_], step: int, *, top: int, left: int) -> Iterator[PixelBox]:
    """Yield the box of the pixels in each square of `step` x `step` that has any."""
    for y in range(0, pixels.shape[0], step):
        for x in range(0, pixels.shape[1], step):
            square = pixels[y : y + step, x : x + step]
            rows, columns = np.flatnonzero(square.any(1)), np.flatnonzero(square.any(0))
            if len(rows):
                yield (
                    left + x + int(columns[0]),
                    top + y + int(rows[0]),
                    int(columns[-1] - columns[0]) + 1,
                    int(rows[-1] - rows[0]) + 1,
                )


def _draw(boxes: Sequence[Box]) -> NDArray[np.bool_]:
    """Return the boxes, filled, on a square (GRID, GRID)."""
    marked = np.zeros((GRID, GRID), np.bool_)
    for left, top, right, bottom in boxes:
        rows = slice(int(top * GRID), max(int(np.ceil(bottom * GRID)), int(top * GRID) + 1))
        columns = slice(int(left * GRID), max(int(np.ceil(right * GRID)), int(left * GRID) + 1))
        marked[rows, columns] = True

    return marked
