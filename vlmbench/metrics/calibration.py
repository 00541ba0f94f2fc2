"""Whether the model's confidence can be taken at its word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmbench.metrics._bins import sureness
from vlmbench.metrics._select import ordinary
from vlmbench.types import Prediction, Rate


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """`ece`: expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3); absent without scores.

    Confidence is the predicted label's probability; the 10 bins are ((m - 1) / 10, m / 10]. A bin's share of the
    records times the gap between its accuracy and its mean confidence is |sum of (correct - confidence)| / n.
    """
    records = ordinary(predictions)
    sure = sureness(records)
    if sure is None:
        return {}
    correct = np.array([record.correct for record in records])
    gaps = np.bincount(sure.bins, correct - sure.confidence)
    return {"ece": float(np.abs(gaps).sum() / len(records))}
