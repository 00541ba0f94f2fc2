"""Describe where the marked defects of a photo are, in words and in pixels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.annotations.marks import Box, Mark
from vlmbench.data.annotations.masks import upright_mask
from vlmbench.data.images import file_version, image_size, turn_upright
from vlmbench.data.photos.regions import describe_region

GRID = 300  # pixels of the square on which boxes are drawn: a multiple of 3
MAX_WORDS = 4  # kinds of defects that an answer names

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


def defect_sizes(marks: Sequence[Mark], photo: Path, root: Path) -> list[tuple[int, int]]:
    """Return (width, height) of each marked defect in pixels of the photo.

    A mask's defects are its connected white areas.
    """
    from scipy import ndimage  # late: the import takes 0.5 s

    sizes: list[tuple[int, int]] = []
    for mark in marks:
        if mark.box is not None:
            left, top, right, bottom = mark.box
            width, height = image_size(photo, inside=root)
            sizes.append((round((right - left) * width), round((bottom - top) * height)))
        if mark.mask is not None:
            numbered, _ = ndimage.label(upright_mask(mark.mask, photo, root), np.ones((3, 3)))
            slices = ndimage.find_objects(numbered)
            sizes += [
                (area[1].stop - area[1].start, area[0].stop - area[0].start) for area in slices
            ]

    return sizes


def _draw(boxes: Sequence[Box]) -> NDArray[np.bool_]:
    """Return the boxes, filled, on a square (GRID, GRID)."""
    marked = np.zeros((GRID, GRID), np.bool_)
    for left, top, right, bottom in boxes:
        rows = slice(int(top * GRID), max(int(np.ceil(bottom * GRID)), int(top * GRID) + 1))
        columns = slice(int(left * GRID), max(int(np.ceil(right * GRID)), int(left * GRID) + 1))
        marked[rows, columns] = True

    return marked
