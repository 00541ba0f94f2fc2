"""Masks, described in words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vlmbench.data.photos.regions import describe_region


def make_mask(*squares: tuple[int, int], size: int = 9) -> np.ndarray:
    """Return a mask of `size` x `size` pixels with 2 x 2 set pixels in each square."""
    mask = np.zeros((size, size), dtype=bool)
    for row, column in squares:
        mask[3 * row : 3 * row + 2, 3 * column : 3 * column + 2] = True
    return mask


@pytest.mark.parametrize(
    ("squares", "words"),
    [
        ([(0, 0)], "upper left"),
        ([(0, 1)], "upper"),
        ([(1, 1)], "centre"),
        ([(1, 2)], "right"),
        ([(2, 1)], "lower"),
        ([(0, 0), (1, 0)], "upper left"),  # both have half of it: the first one counts
        ([(0, 0), (1, 0), (2, 0)], "upper left and left and lower left"),
        ([(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)], "in several places"),
        ([], ""),
    ],
)
def test_a_defect_is_named_by_its_regions(squares: list[tuple[int, int]], words: str) -> None:
    assert describe_region(make_mask(*squares)) == words


def test_half_of_the_image_is_most_of_it() -> None:
    mask = np.zeros((10, 10), dtype=bool)
    mask[:5] = True
    assert describe_region(mask) == "over most of it"


@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_has_words_unless_it_is_empty(mask: np.ndarray) -> None:
    assert bool(describe_region(mask)) == bool(mask.any())
