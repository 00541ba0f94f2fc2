"""Predictions binned by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmbench.metrics._select import positive_probabilities
from vlmbench.types import Prediction

BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceBins:
    """`confidence` is the probability of each record's predicted label, (n).

    `bins` is the number m of its bin ((m - 1) / 10, m / 10], (n).
    """

    confidence: NDArray[np.float64]
    bins: NDArray[np.intp]


def bin_by_confidence(records: Sequence[Prediction]) -> ConfidenceBins | None:
    """Return the bins of records of one task; None unless all records have scores."""
    positive = positive_probabilities(records)
    if positive is None:
        return None

    confidence = np.maximum(positive, 1 - positive)
    bins = np.ceil(confidence * BINS).astype(np.intp)
    return ConfidenceBins(confidence=confidence, bins=bins)
