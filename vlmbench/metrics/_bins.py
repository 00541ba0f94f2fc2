"""Predictions by how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmbench.metrics._select import positive_probabilities
from vlmbench.types import Prediction

BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Sureness:
    """Of each record, (n): the probability of its predicted label, and the bin m of ((m - 1) / 10, m / 10]."""

    confidence: NDArray[np.float64]
    bins: NDArray[np.intp]


def sureness(records: Sequence[Prediction]) -> Sureness | None:
    """Of records of one task; None unless all have scores."""
    positive = positive_probabilities(records)
    if positive is None:
        return None
    confidence = np.maximum(positive, 1 - positive)
    return Sureness(confidence=confidence, bins=np.ceil(confidence * BINS).astype(np.intp))
