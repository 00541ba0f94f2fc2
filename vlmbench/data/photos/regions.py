"""Where a defect is, in words, from its mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")
MOST_OF_IT = 0.5  # share of the picture
MAIN_CELL = 0.5  # share of the defect that one of the nine cells holds: it alone is named
NAMED_CELL = 0.25  # else each cell is named that holds this much of it


def region_words(mask: NDArray[np.bool_]) -> str:
    """Which of the nine cells of a 3 x 3 grid a defect lies in: "upper left", "centre", "left and lower left".

    `mask` (height, width). "over most of it" where it covers half of the picture, "in several places" where no cell
    holds a quarter of it, "" for an empty mask.
    """
    total = int(mask.sum())
    if total == 0:
        return ""
    if total >= MOST_OF_IT * mask.size:
        return "over most of it"
    shares = [
        (part.sum() / total, _name(row, column))
        for row, band in enumerate(np.array_split(mask, 3, axis=0))
        for column, part in enumerate(np.array_split(band, 3, axis=1))
    ]
    largest, name = max(shares, key=lambda share: share[0])  # of two alike, the first in reading order
    if largest >= MAIN_CELL:
        return name
    named = [name for share, name in shares if share >= NAMED_CELL]
    return " and ".join(named) if named else "in several places"


def _name(row: int, column: int) -> str:
    if ROWS[row] == "middle":
        return COLUMNS[column]
    return ROWS[row] if COLUMNS[column] == "centre" else f"{ROWS[row]} {COLUMNS[column]}"
