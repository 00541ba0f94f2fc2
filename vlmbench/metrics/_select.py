"""Which predictions a metric looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from vlmbench.types import LABELS, Prediction, Probe, Rate, UserError


def ordinary(predictions: Iterable[Prediction]) -> list[Prediction]:
    """The held-out records themselves, without the probes derived from them."""
    return [prediction for prediction in predictions if prediction.probe is Probe.NONE]


def with_base(predictions: Sequence[Prediction], probe: Probe) -> list[tuple[Prediction, Prediction]]:
    """The probes of one kind, each with the prediction of the ordinary record that it was derived from.

    Raises UserError for a probe whose base record has no prediction.
    """
    bases = {prediction.id: prediction for prediction in ordinary(predictions)}
    pairs = []
    for prediction in predictions:
        if prediction.probe is probe:
            base = bases.get(prediction.of[0])
            if base is None:
                raise UserError(
                    f"prediction '{prediction.id}' is a {probe} probe of record '{prediction.of[0]}', which has no "
                    "prediction in this task and view; evaluate the run again"
                )
            pairs.append((prediction, base))
    return pairs


def share(predictions: Sequence[Prediction], hit: Callable[[Prediction], bool]) -> Rate:
    """The share of the predictions for which `hit` is true."""
    return Rate(
        hits=tuple(hit(prediction) for prediction in predictions),
        groups=tuple(prediction.group for prediction in predictions),
    )


def says_negative(prediction: Prediction) -> bool:
    """Whether the model gave its task's negative label (normal, same); an unparsable answer did not."""
    return prediction.task in LABELS and prediction.predicted == LABELS[prediction.task][0]


def positive_probabilities(predictions: Sequence[Prediction]) -> NDArray[np.float64] | None:
    """`Prediction.positive_probability` of every record of one task at once; None unless all have scores, and for a
    task without a positive label."""
    if not predictions or predictions[0].task not in LABELS or not all(prediction.scores for prediction in predictions):
        return None
    negative, positive = LABELS[predictions[0].task]
    margins = [prediction.scores[positive] - prediction.scores[negative] for prediction in predictions]
    probabilities: NDArray[np.float64] = expit(np.array(margins))
    return probabilities


def is_positive(predictions: Sequence[Prediction]) -> NDArray[np.bool_]:
    """Whether each record of one task is truly positive (abnormal, different)."""
    positive = LABELS[predictions[0].task][1]
    return np.array([prediction.expected == positive for prediction in predictions])
