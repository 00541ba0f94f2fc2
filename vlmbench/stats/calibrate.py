"""Platt scaling on the validation split: from a model's log-odds to a calibrated probability."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmbench.stats.clusters import Floats
from vlmbench.types import LABELS, PLANTED, Prediction, Probe, UserError

MIN_RECORDS = 10  # of each label
MIN_PARTS = 5
FOLDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """P(positive) = 1 / (1 + exp(-(slope * margin + intercept))). The margin is the log-odds.

    `n` records of `n_parts` parts were fitted; `n_positive` of them are positive, `n_planted` of
    these have a planted defect.
    """

    slope: float
    intercept: float
    n: int
    n_parts: int
    n_positive: int
    n_planted: int = 0

    def score(self, margin: float, prevalence: float | None = None) -> float:
        """Return the probability of the positive label.

        `prevalence` is the share of positive records in use; None keeps the share in the fit.
        """
        return _probability(self.slope * margin + self.intercept + self.shift(prevalence))

    @property
    def base_rate(self) -> float:
        """Return the share of positive records in the fit."""
        return self.n_positive / self.n

    @property
    def is_blind(self) -> bool:
        """Return whether the model ranked the validation records no better than chance.

        Then all records get the same score.
        """
        return self.slope == 0.0

    def shift(self, prevalence: float | None) -> float:
        """Return what another share of positive records adds to the log-odds."""
        return 0.0 if prevalence is None else _log_odds(prevalence) - _log_odds(self.base_rate)


def calibrate(predictions: Sequence[Prediction]) -> Calibration:
    """Return the Platt scaling (Platt 1999) of one task and view; probes are left out.

    The records must not have trained the model. Platt's targets, (n + 1) / (n + 2) instead of 1,
    keep the slope finite for separated labels. A slope below 0 would reverse the model's judgement
    and becomes 0.

    Raise UserError where there are too few records.
    """
    records = scored_records(predictions)
    margins, positive, parts = _columns(records)
    _require_enough(positive, parts)
    slope, intercept = fit(margins, positive)

    return Calibration(
        slope=slope,
        intercept=intercept,
        n=len(parts),
        n_parts=len(set(parts)),
        n_positive=int(positive.sum()),
        n_planted=sum(PLANTED in record.meta for record in records),
    )


def calibration_shortages(counts: Mapping[tuple[str, str], tuple[int, int, int]]) -> list[str]:
    """Return a sentence for each reason why some scores of a run would not be calibrated.

    `counts` maps (task, view) to the numbers of validation records, positive records and parts.
    """
    task_views: dict[str, list[str]] = {}
    for (task, view), numbers in counts.items():
        reason = _shortage(*numbers)
        if reason:
            task_views.setdefault(reason, []).append(f"{task} {view}")

    return [
        f"scores would not be calibrated ({', '.join(names)}): {reason}"
        for reason, names in task_views.items()
    ]


def out_of_fold(predictions: Sequence[Prediction]) -> Floats:
    """Return the calibrated log-odds of the scored records, (n).

    Each record's calibration saw none of its part's records. Raise UserError where there are too
    few records.
    """
    margins, positive, parts = _columns(scored_records(predictions))
    _require_enough(positive, parts)

    log_odds = np.zeros(len(parts))
    for rest, fold in _folds(parts):
        slope, intercept = fit(margins[rest], positive[rest])
        log_odds[fold] = slope * margins[fold] + intercept

    return log_odds


def fit(margins: Floats, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Return (slope, intercept) of Platt scaling; the slope is at least 0."""
    from sklearn.linear_model import LogisticRegression

    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    targets = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    rate = float(targets.mean())

    deviation = float(margins.std())
    if deviation < 1e-12:
        return 0.0, _log_odds(rate)

    # A target between 0 and 1 becomes two weighted records, one of each label.
    columns = np.concatenate([margins, margins])[:, None] / deviation
    labels = np.repeat([1, 0], len(margins))
    weights = np.concatenate([targets, 1 - targets])

    regression = LogisticRegression(
        C=np.inf,
        tol=1e-8,
        max_iter=1000,
    )
    regression.fit(columns, labels, sample_weight=weights)

    slope = float(regression.coef_[0, 0]) / deviation
    return (slope, float(regression.intercept_[0])) if slope > 0 else (0.0, _log_odds(rate))


def scored_records(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return the ordinary records with a margin; multiple choices have none.

    A file from strangers may have other labels, or no usable numbers: such records are left out.
    """
    return [each for each in predictions if each.probe is Probe.NONE and _has_margin(each)]


def _has_margin(prediction: Prediction) -> bool:
    labels = LABELS.get(prediction.task, ())
    if not labels or prediction.expected not in labels:
        return False
    if any(label not in prediction.scores for label in labels):
        return False

    return prediction.margin is not None and math.isfinite(prediction.margin)


def _columns(records: Sequence[Prediction]) -> tuple[Floats, NDArray[np.bool_], list[str]]:
    """Return margins, whether each record is positive, and parts: (n) each."""
    margins = np.array([record.margin for record in records], dtype=np.float64)
    positive = [record.expected == LABELS[record.task][1] for record in records]
    parts = [record.cluster for record in records]
    return margins, np.array(positive, dtype=np.bool_), parts


def _require_enough(positive: NDArray[np.bool_], parts: Sequence[str]) -> None:
    reason = _shortage(len(positive), int(positive.sum()), len(set(parts)))
    if reason:
        raise UserError(reason)


def _shortage(n: int, n_positive: int, n_parts: int) -> str:
    """Return why these validation records are too few; "" where they suffice."""
    if min(n_positive, n - n_positive) >= MIN_RECORDS and n_parts >= MIN_PARTS:
        return ""

    parts = "1 part" if n_parts == 1 else f"{n_parts} parts"
    return (
        f"{n} validation records of {parts}, {n_positive} of them positive, are too few to "
        f"calibrate; at least {MIN_RECORDS} of each label and {MIN_PARTS} parts are needed: add "
        "parts, or raise data.split.val and lower data.split.train by the same amount"
    )


def _folds(parts: Sequence[str]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    from sklearn.model_selection import GroupKFold

    folds = GroupKFold(n_splits=min(FOLDS, len(set(parts))))
    yield from folds.split(np.zeros(len(parts)), groups=parts)


def _probability(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(min(-log_odds, 700.0)))


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))
