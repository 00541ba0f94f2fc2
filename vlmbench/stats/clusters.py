"""Sums over records that belong to parts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def sum_of_squares(residuals: Floats, parts: NDArray[np.intp]) -> float:
    """Return the sum of the parts' squared residual sums, times G / (G - 1) for G parts.

    This is n^2 times the variance of the mean.
    """
    sums = np.bincount(parts, residuals)
    return float((sums**2).sum() * len(sums) / (len(sums) - 1))


def mean_part_size(parts: NDArray[np.intp]) -> float:
    """Return the expected size of the part of a random record.

    It is the design effect where all records of a part are alike.
    """
    return float((np.bincount(parts) ** 2).sum() / len(parts))
