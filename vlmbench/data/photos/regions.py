"""Describe where a defect is, from its mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROWS = ("upper", "middle", "lower")
COLUMNS = ("left", "centre", "right")
LARGE_DEFECT = 0.5  # share of the image from which a defect covers most of it
MAIN_SQUARE = 0.5  # share of the defect from which its largest square is named alone
NAMED_SQUARE = 0.25  # share of the defect from which a square is named beside others


def describe_region(mask: NDArray[np.bool_]) -> str:
    """Return the squares of a 3 x 3 grid that a defect covers.

    Examples: "upper left", "centre", "left and lower left". `mask` is (height, width). Return
    "over most of it" if the defect covers half of the image. Return "in several places" if no
    square holds a quarter of the defect. Return "" for an empty mask.
    """
    total = int(mask.sum())
    if total == 0:
        return ""
    if total >= LARGE_DEFECT * mask.size:
        return "over most of it"

    shares: list[tuple[float, str]] = []
    for row, band in enumerate(np.array_split(mask, 3, axis=0)):
        for column, square in enumerate(np.array_split(band, 3, axis=1)):
            shares.append((square.sum() / total, _square_name(row, column)))

    # Equal shares: the first square in reading order.
    largest, name = max(shares, key=lambda share: share[0])
    if largest >= MAIN_SQUARE:
        return name

    names = [name for share, name in shares if share >= NAMED_SQUARE]

    return " and ".join(names) if names else "in several places"


def _square_name(row: int, column: int) -> str:
    if ROWS[row] == "middle":
        return COLUMNS[column]
    if COLUMNS[column] == "centre":
        return ROWS[row]

    return f"{ROWS[row]} {COLUMNS[column]}"
