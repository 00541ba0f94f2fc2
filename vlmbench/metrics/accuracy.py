"""How often the predicted label is the true one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import is_positive, select_ordinary, share
from vlmbench.types import LABELS, Prediction, Rate

FIGURES = (
    MetricInfo(
        name="accuracy",
        title="Accuracy",
        unit="share",
        better="higher",
        meaning="Share of records answered right.",
        section="headline",
        order=10,
        long_title="accuracy",
        of_decisions=True,
    ),
    MetricInfo(
        name="balanced_accuracy",
        title="Balanced accuracy",
        unit="share",
        better="higher",
        meaning="Mean of the shares answered right under each label: guessing gives 50 %, however "
        "rare defects are.",
        section="headline",
        order=20,
        long_title="balanced accuracy",
    ),
    MetricInfo(
        name="unparsed",
        title="Unparsed",
        unit="share",
        better="lower",
        meaning="Share of written answers that name no label. Each of them counts as wrong.",
        order=80,
        on_card=False,
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `accuracy`, `unparsed` and `balanced_accuracy`.

    `unparsed` is the share of answers that name no label; each counts as wrong.
    `balanced_accuracy`, the mean of both classes' recalls, needs two classes that both occur.
    """
    records = select_ordinary(predictions)
    if not records:
        return {}

    accuracy = share(records, lambda prediction: prediction.correct)
    figures: dict[str, Rate | float] = {
        "accuracy": accuracy,
        "unparsed": share(records, lambda prediction: prediction.predicted is None),
    }
    if records[0].task not in LABELS:
        return figures

    positive = is_positive(records)
    correct = np.array(accuracy.hits)
    if positive.any() and not positive.all():
        recalls = correct[positive].mean() + correct[~positive].mean()
        figures["balanced_accuracy"] = float(recalls) / 2

    return figures
