"""How far the model's confidence is from its accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._bins import bin_by_confidence
from vlmbench.metrics._select import select_ordinary
from vlmbench.types import Prediction, Rate

FIGURES = (
    MetricInfo(
        name="ece",
        title="Calibration error (ECE)",
        unit="index",
        better="lower",
        meaning="Mean gap between how sure the model says it is and how often it is right: 0 is "
        "perfect.",
        order=70,
        long_title="expected calibration error",
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `ece`, the expected calibration error; absent without scores.

    Guo et al. 2017 (arXiv:1706.04599), equation 3. Confidence is the predicted label's probability.
    The 10 bins are ((m - 1) / 10, m / 10]. A bin adds its share of the records times the gap
    between its accuracy and its mean confidence. That is |sum of (correct - confidence)| / n.
    """
    records = select_ordinary(predictions)
    binned = bin_by_confidence(records)
    if binned is None:
        return {}

    correct = np.array([record.correct for record in records])
    gaps = np.bincount(binned.bins, correct - binned.confidence)
    return {"ece": float(np.abs(gaps).sum() / len(records))}
