"""How often the predicted label is the true one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmbench.metrics._select import is_positive, ordinary, share
from vlmbench.types import LABELS, Prediction, Rate


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """`accuracy`; `unparsed`, the share of answers that name no label (each counts as wrong); `balanced_accuracy`,
    the mean of both classes' recalls, where the task has two and both occur."""
    records = ordinary(predictions)
    if not records:
        return {}
    accuracy = share(records, lambda prediction: prediction.correct)
    figures: dict[str, Rate | float] = {
        "accuracy": accuracy,
        "unparsed": share(records, lambda prediction: prediction.predicted is None),
    }
    if records[0].task not in LABELS:
        return figures
    positive, correct = is_positive(records), np.array(accuracy.hits)
    if positive.any() and not positive.all():
        figures["balanced_accuracy"] = float(correct[positive].mean() + correct[~positive].mean()) / 2
    return figures
