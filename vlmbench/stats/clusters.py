"""Sums over records in groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def sum_of_squares(residuals: Floats, groups: NDArray[np.intp]) -> float:
    """Squares of the groups' summed residuals, summed, times G / (G - 1): n^2 times the variance of the mean."""
    sums = np.bincount(groups, residuals)
    return float((sums**2).sum() * len(sums) / (len(sums) - 1))


def mean_group_size(groups: NDArray[np.intp]) -> float:
    """Records in the group of a random record: the design effect where a group's records are all alike."""
    return float((np.bincount(groups) ** 2).sum() / len(groups))
