"""How well the scores rank positive records above negative ones, whatever the threshold."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import rankdata

from vlmbench.metrics._select import is_positive, ordinary, positive_probabilities
from vlmbench.types import Prediction, Rate


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """`auroc`: the probability that a positive record scores above a negative one, ties counting half; absent without
    scores or with one class. From the positives' ranks (Hanley & McNeil 1982), because resampling calls it often."""
    records = ordinary(predictions)
    probabilities = positive_probabilities(records)
    if probabilities is None:
        return {}
    positive = is_positive(records)
    n_positive = int(positive.sum())
    pairs = n_positive * (len(records) - n_positive)
    if pairs == 0:
        return {}
    wins = rankdata(probabilities)[positive].sum() - n_positive * (n_positive + 1) / 2
    return {"auroc": float(wins / pairs)}
