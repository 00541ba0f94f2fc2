"""Platt scaling on the validation split: from a model's log-odds to a calibrated probability."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmbench.stats.clusters import Floats
from vlmbench.types import LABELS, PLANTED, Prediction, Probe, UserError

# Fewer give no calibration. On photos of 12 parts, a threshold from 6 abnormal records of 3 parts
# raised balanced accuracy from 0.55, with the models' own 0.5, to 0.91.
MIN_RECORDS, MIN_PARTS = 5, 3  # records of each label
# With fewer, the calibration is called rough.
GOOD_RECORDS, GOOD_PARTS = 10, 5
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
        return probability(self.slope * margin + self.intercept + self.shift(prevalence))

    @property
    def base_rate(self) -> float:
        """Return the share of positive records, half a record of each label at least."""
        return min(max(self.n_positive, 0.5), self.n - 0.5) / self.n

    @property
    def is_blind(self) -> bool:
        """Return whether the model ranked the validation records no better than chance.

        Then all records get the same score.
        """
        return self.slope == 0.0

    @property
    def why_rough(self) -> str:
        """Return why another choice of records would move the scores much; "" if it would not."""
        return _shortage(self.n, self.n_positive, self.n_parts, is_good=True)

    def shift(self, prevalence: float | None) -> float:
        """Return what another share of positive records adds to the log-odds."""
        return 0.0 if prevalence is None else log_odds(prevalence) - log_odds(self.base_rate)


def calibrate(predictions: Sequence[Prediction]) -> Calibration:
    """Return the Platt scaling (Platt 1999) of one task and view; probes are left out.

    The records must not have trained the model. Platt's targets, (n + 1) / (n + 2) instead of 1,
    keep the slope finite for separated labels. A slope below 0 would reverse the model's judgement
    and becomes 0.

    Raise UserError where there are too few records.
    """
    return _calibration(_enough_records(predictions))


def recalibrate(predictions: Sequence[Prediction]) -> list[Calibration]:
    """Return the calibrations that lack one group of parts each, of FOLDS groups at most.

    Equal sets of parts have equal groups. Raise UserError where there are too few records.
    """
    records = _enough_records(predictions)
    parts = sorted({record.cluster for record in records})
    group_of = {part: number % FOLDS for number, part in enumerate(parts)}
    return [
        _calibration([record for record in records if group_of[record.cluster] != group])
        for group in range(min(FOLDS, len(parts)))
    ]


def _calibration(records: Sequence[Prediction]) -> Calibration:
    margins, positive, parts = _columns(records)
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
    """Return why scores of a run would be calibrated roughly or not at all, a sentence each.

    `counts` maps (task, view) to the numbers of validation records, positive records and parts.
    """
    task_views: dict[str, list[str]] = {}
    for (task, view), (n, n_positive, n_parts) in counts.items():
        why_none = _shortage(n, n_positive, n_parts, is_good=False)
        why_rough = _shortage(n, n_positive, n_parts, is_good=True)
        if why_rough:
            result = "not be calibrated" if why_none else "be calibrated only roughly"
            names = task_views.setdefault(
                f"scores would {result} (%s): {why_none or why_rough}", []
            )
            names.append(f"{task} {view}")

    return [sentence % ", ".join(names) for sentence, names in task_views.items()]


def out_of_fold(predictions: Sequence[Prediction]) -> Floats:
    """Return the calibrated log-odds of the scored records, (n).

    Each record's calibration saw none of its part's records. Raise UserError where there are too
    few records.
    """
    margins, positive, parts = _columns(_enough_records(predictions))

    log_odds = np.zeros(len(parts))
    for rest, fold in _folds(parts):
        slope, intercept = fit(margins[rest], positive[rest])
        log_odds[fold] = slope * margins[fold] + intercept

    return log_odds


def fit(margins: Floats, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Return (slope, intercept) of Platt scaling; the slope is at least 0.

    scikit-learn's LogisticRegression gives the same, but takes four times as long for two numbers,
    and stops early where margins are far from 0.
    """
    from scipy.optimize import minimize

    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    targets = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    rate = float(targets.mean())
    center, deviation = float(margins.mean()), float(margins.std())
    if deviation < 1e-12:
        return 0.0, log_odds(rate)

    columns = np.stack([(margins - center) / deviation, np.ones(len(margins))])
    found = minimize(
        _loss,
        x0=[0.0, log_odds(rate)],
        args=(columns, targets),
        jac=True,
        hess=_curvature,
        method="trust-exact",
        options={"gtol": 1e-8},
    )

    slope = float(found.x[0]) / deviation
    if slope <= 0:
        return 0.0, log_odds(rate)
    return slope, float(found.x[1]) - slope * center


def _loss(line: Floats, columns: Floats, targets: Floats) -> tuple[float, Floats]:
    """Return the log loss of a line, in nats, and its gradient."""
    from scipy.special import expit

    log_odds = line @ columns
    loss = float(np.logaddexp(0, log_odds).sum() - targets @ log_odds)
    return loss, columns @ (expit(log_odds) - targets)


def _curvature(line: Floats, columns: Floats, targets: Floats) -> Floats:
    """Return the second derivatives of the log loss; it does not depend on the targets."""
    from scipy.special import expit

    chance = expit(line @ columns)
    curvature: Floats = (columns * (chance * (1 - chance))) @ columns.T
    return curvature


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


def _enough_records(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return the scored records. Raise UserError where there are too few."""
    records = scored_records(predictions)
    _, positive, parts = _columns(records)
    reason = _shortage(len(positive), int(positive.sum()), len(set(parts)), is_good=False)
    if reason:
        raise UserError(reason)
    return records


def _shortage(n: int, n_positive: int, n_parts: int, *, is_good: bool) -> str:
    """Return why these validation records are too few for a good calibration, or for any."""
    records, least_parts = (GOOD_RECORDS, GOOD_PARTS) if is_good else (MIN_RECORDS, MIN_PARTS)
    if min(n_positive, n - n_positive) >= records and n_parts >= least_parts:
        return ""

    parts = "1 part" if n_parts == 1 else f"{n_parts} parts"
    aim = "calibrate well" if is_good else "calibrate"
    return (
        f"{n} validation records of {parts}, {n_positive} of them positive, are too few to "
        f"{aim}; at least {records} of each label and {least_parts} parts are needed: add "
        "parts, or raise data.split.val and lower data.split.train by the same amount"
    )


def _folds(parts: Sequence[str]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    from sklearn.model_selection import GroupKFold

    folds = GroupKFold(n_splits=min(FOLDS, len(set(parts))))
    yield from folds.split(np.zeros(len(parts)), groups=parts)


def probability(log_odds: float) -> float:
    """Return the probability of these log-odds."""
    return 1.0 / (1.0 + math.exp(min(-log_odds, 700.0)))


def log_odds(probability: float) -> float:
    """Return the natural logarithm of the odds."""
    return math.log(probability / (1 - probability))
