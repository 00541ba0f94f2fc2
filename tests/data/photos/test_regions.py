"""Masks in words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vlmbench.data.photos.regions import region_words


def mask(*places: tuple[int, int], size: int = 9) -> np.ndarray:
    """Blocks of 3 x 3 pixels at (row, column) of a grid of 3 x 3 cells, in a picture of 9 x 9 or larger pixels."""
    shown = np.zeros((size, size), dtype=bool)
    for row, column in places:
        shown[3 * row : 3 * row + 2, 3 * column : 3 * column + 2] = True
    return shown


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([(0, 0)], "upper left"),
        ([(0, 1)], "upper"),
        ([(1, 1)], "centre"),
        ([(1, 2)], "right"),
        ([(2, 1)], "lower"),
        ([(0, 0), (1, 0)], "upper left"),  # half of it in each: the first
        ([(0, 0), (1, 0), (2, 0)], "upper left and left and lower left"),
        ([(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)], "in several places"),
        ([], ""),
    ],
)
def test_a_defect_is_named_by_its_cells(places: list[tuple[int, int]], words: str) -> None:
    assert region_words(mask(*places)) == words


def test_half_of_the_picture_is_most_of_it() -> None:
    shown = np.zeros((10, 10), dtype=bool)
    shown[:5] = True
    assert region_words(shown) == "over most of it"


@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_has_words_unless_it_is_empty(shown: np.ndarray) -> None:
    assert bool(region_words(shown)) == bool(shown.any())
