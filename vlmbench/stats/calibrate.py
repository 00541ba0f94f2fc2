"""From a model's log-odds to a probability that can be taken at its word: Platt scaling on the validation side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmbench.stats.clusters import Floats
from vlmbench.types import LABELS, Prediction, Probe, UserError

MIN_RECORDS = 10  # of each label
MIN_GROUPS = 5  # parts
FOLDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """P(positive) = 1 / (1 + exp(-(slope * margin + intercept))), the margin being the labels' log-odds.

    `log_loss` is that of records whose parts the fit did not see (nats a record), `log_loss_before` that of the
    model's own probabilities; `n` records of `n_groups` parts, `n_positive` of them positive.
    """

    slope: float
    intercept: float
    n: int
    n_groups: int
    n_positive: int
    log_loss: float
    log_loss_before: float

    def score(self, margin: float, prevalence: float | None = None) -> float:
        """The probability of the positive label; with `prevalence`, where that share of the records is positive."""
        return _probability(self.slope * margin + self.intercept + self.shift(prevalence))

    @property
    def base_rate(self) -> float:
        """The share of positive records that it was fitted on."""
        return self.n_positive / self.n

    @property
    def is_blind(self) -> bool:
        """Whether the model's scores ranked the validation records no better than chance: all then score alike."""
        return self.slope == 0.0

    def shift(self, prevalence: float | None) -> float:
        """What another share of positive records adds to the log-odds."""
        return 0.0 if prevalence is None else _log_odds(prevalence) - _log_odds(self.base_rate)


def calibrate(predictions: Sequence[Prediction]) -> Calibration:
    """Platt scaling (Platt 1999) of one task and view, on records that were not trained on; probes are left out.

    His targets, (n + 1) / (n + 2) instead of 1, keep the slope finite where the labels are separated; a slope below 0,
    which would turn the model's judgement round, is taken as 0. Raises UserError where there are too few records.
    """
    records = _scored(predictions)
    margins, positive, groups = _columns(records)
    _require_enough(positive, groups)
    slope, intercept = fit(margins, positive)
    return Calibration(
        slope=slope,
        intercept=intercept,
        n=len(records),
        n_groups=len(set(groups)),
        n_positive=int(positive.sum()),
        log_loss=_log_loss(np.array(out_of_fold(records)), positive),
        log_loss_before=_log_loss(margins, positive),
    )


def uncalibrated(counts: Mapping[tuple[str, str], tuple[int, int, int]]) -> list[str]:
    """Which scores of a run would be left as they are, and why, a sentence for each reason.

    `counts`: task and view -> validation records, those of the positive label, and their parts.
    """
    kinds: dict[str, list[str]] = {}
    for (task, view), numbers in counts.items():
        reason = _shortage(*numbers)
        if reason:
            kinds.setdefault(reason, []).append(f"{task} {view}")
    return [f"scores would not be calibrated ({', '.join(named)}): {reason}" for reason, named in kinds.items()]


def out_of_fold(predictions: Sequence[Prediction]) -> list[float]:
    """The calibrated log-odds of each record by a calibration that saw none of its part's records."""
    records = _scored(predictions)
    margins, positive, groups = _columns(records)
    found = np.zeros(len(records))
    for rest, fold in _folds(groups):
        slope, intercept = fit(margins[rest], positive[rest])
        found[fold] = slope * margins[fold] + intercept
    return [float(value) for value in found]


def fit(margins: Floats, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """(slope, intercept) of Platt scaling; the slope is at least 0."""
    from sklearn.linear_model import LogisticRegression

    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    targets = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    rate = float(targets.mean())
    spread = float(margins.std())
    if spread < 1e-12:
        return 0.0, _log_odds(rate)
    # A target between 0 and 1 is a record of both labels, weighted.
    columns = np.concatenate([margins, margins])[:, None] / spread
    labels = np.repeat([1, 0], len(margins))
    fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    fitted.fit(columns, labels, sample_weight=np.concatenate([targets, 1 - targets]))
    slope = float(fitted.coef_[0, 0]) / spread
    return (slope, float(fitted.intercept_[0])) if slope > 0 else (0.0, _log_odds(rate))


def _scored(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Those that have a score: not multiple choices, whose labels are each record's own."""
    return [one for one in predictions if one.probe is Probe.NONE and one.margin is not None]


def _columns(records: Sequence[Prediction]) -> tuple[Floats, NDArray[np.bool_], list[str]]:
    margins = np.array([one.margin for one in records], dtype=np.float64)
    positive = np.array([one.expected == LABELS[one.task][1] for one in records], dtype=np.bool_)
    return margins, positive, [one.group for one in records]


def _require_enough(positive: NDArray[np.bool_], groups: Sequence[str]) -> None:
    reason = _shortage(len(positive), int(positive.sum()), len(set(groups)))
    if reason:
        raise UserError(reason)


def _shortage(n: int, n_positive: int, n_groups: int) -> str:
    """Why so many validation records are too few; "" where they will do."""
    if min(n_positive, n - n_positive) >= MIN_RECORDS and n_groups >= MIN_GROUPS:
        return ""
    parts = "1 part" if n_groups == 1 else f"{n_groups} parts"
    return (
        f"{n} validation records of {parts}, {n_positive} of them positive, are too few to calibrate: it takes "
        f"{MIN_RECORDS} of each label and {MIN_GROUPS} parts; add parts, or raise data.split.val and lower "
        "data.split.train as much"
    )


def _folds(groups: Sequence[str]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    from sklearn.model_selection import GroupKFold

    folds = GroupKFold(n_splits=min(FOLDS, len(set(groups))))
    yield from folds.split(np.zeros(len(groups)), groups=groups)


def _log_loss(log_odds: Floats, positive: NDArray[np.bool_]) -> float:
    return float(np.logaddexp(0.0, np.where(positive, -log_odds, log_odds)).mean())


def _probability(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(min(-log_odds, 700.0)))


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))
