"""The figures of baselines, and of tuned runs beside them, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vlmbench.metrics import errors
from vlmbench.metrics._select import is_positive, positive_probabilities
from vlmbench.metrics.auroc import area
from vlmbench.report.baseline_answers import FoldOf
from vlmbench.stats import estimate, estimate_rate
from vlmbench.stats.estimates import Measure
from vlmbench.types import Estimate, Prediction, Rate

FIGURES = ("balanced_accuracy", "auroc", "miss_rate", "overkill_rate")


def estimates(
    runs: Sequence[Sequence[Prediction]], *, seed: int, fold_of: FoldOf = None
) -> dict[str, Estimate]:
    """Return FIGURES with their intervals: the mean over runs that answered the same records.

    In a cross-validation AUROC is the mean over folds: scores of several models do not compare.
    """
    pooled = [prediction for predictions in runs for prediction in predictions]
    numbers = [number for number, predictions in enumerate(runs) for _ in predictions]
    folds = [0 if fold_of is None else fold_of[prediction.id] for prediction in pooled]

    measure = _measure_of(pooled, np.array(numbers), np.array(folds))
    found = estimate(measure, pooled, seed=seed)
    rates = errors.measure(pooled)
    found |= {name: estimate_rate(rate) for name, rate in rates.items() if isinstance(rate, Rate)}

    return {
        name: replace(found[name], n=found[name].n // len(runs))
        for name in FIGURES
        if name in found
    }


def _measure_of(
    pooled: Sequence[Prediction], runs: NDArray[np.intp], folds: NDArray[np.intp]
) -> Measure:
    """Return a metric: the means over runs of balanced accuracy and AUROC.

    `runs` and `folds` are those of `pooled`, by number. Selections of `pooled` are looked up in
    arrays, because the jackknife makes one for each cluster.
    """
    slots = {id(prediction): slot for slot, prediction in enumerate(pooled)}
    positive = is_positive(pooled)
    correct = np.array([prediction.correct for prediction in pooled])
    scores = positive_probabilities(pooled)
    all_runs = np.unique(runs)

    def measure(predictions: Sequence[Prediction]) -> dict[str, float]:
        drawn = np.array([slots[id(prediction)] for prediction in predictions])
        own = [drawn[runs[drawn] == run] for run in all_runs]
        recalls = [_recall(correct[run], positive[run]) for run in own]
        areas = [
            None if scores is None else _area(scores[run], positive[run], folds[run]) for run in own
        ]

        figures: dict[str, float] = {}
        for name, values in (("balanced_accuracy", recalls), ("auroc", areas)):
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                figures[name] = sum(known) / len(known)
        return figures

    return measure


def _area(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], folds: NDArray[np.intp]
) -> float | None:
    """Return the mean AUROC of the folds that have both classes; None if there are none."""
    own = [folds == fold for fold in np.unique(folds)]
    areas = [area(scores[fold], positive[fold]) for fold in own]
    known = [value for value in areas if value is not None]
    return sum(known) / len(known) if known else None


def _recall(correct: NDArray[np.bool_], positive: NDArray[np.bool_]) -> float | None:
    """Return the mean recall of both classes; None with one class."""
    if positive.all() or not positive.any():
        return None
    return float(correct[positive].mean() + correct[~positive].mean()) / 2
