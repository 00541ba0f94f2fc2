"""How well the scores rank positive records above negative ones, at any threshold."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import rankdata

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import is_positive, positive_probabilities, select_ordinary
from vlmbench.types import Prediction, Rate

FIGURES = (
    MetricInfo(
        name="auroc",
        title="AUROC",
        unit="index",
        better="higher",
        meaning="Chance that an abnormal record is ranked above a normal one, whatever the "
        "threshold: 0.5 is guessing, 1 is perfect.",
        section="headline",
        order=60,
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `auroc`: the probability that a positive record scores above a negative one.

    A tie counts half. The figure is absent without scores or with one class. It is computed from
    the positives' ranks (Hanley & McNeil 1982), because the jackknife calls it often.
    """
    records = select_ordinary(predictions)
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
