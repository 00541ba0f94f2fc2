"""Helpers for metric files: select predictions, count hits, read scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from vlmbench.types import LABELS, Prediction, Probe, Rate, UserError


def select_ordinary(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Return the held-out records themselves, without the probes derived from them."""
    return [prediction for prediction in predictions if prediction.probe is Probe.NONE]


def pair_with_base(
    predictions: Sequence[Prediction], probe: Probe
) -> list[tuple[Prediction, Prediction]]:
    """Return (probe, base) for each probe of one kind: the base is the ordinary record behind it.

    Raise UserError for a probe whose base record has no prediction.
    """
    bases = {prediction.id: prediction for prediction in select_ordinary(predictions)}

    pairs = []
    for prediction in predictions:
        if prediction.probe is not probe:
            continue

        base = bases.get(prediction.of[0])
        if base is None:
            raise UserError(
                f"prediction '{prediction.id}' is a {probe} probe of record '{prediction.of[0]}', "
                "which has no prediction in this task and view; evaluate the run again"
            )
        pairs.append((prediction, base))

    return pairs


def share(predictions: Sequence[Prediction], is_hit: Callable[[Prediction], bool]) -> Rate:
    """Return the share of the predictions for which `is_hit` is true."""
    return Rate(
        hits=tuple(is_hit(prediction) for prediction in predictions),
        parts=tuple(prediction.cluster for prediction in predictions),
    )


def is_judged_negative(prediction: Prediction) -> bool:
    """Return whether the model gave its task's negative label (normal, same).

    An answer that names no label did not.
    """
    return prediction.task in LABELS and prediction.predicted == LABELS[prediction.task][0]


def positive_probabilities(predictions: Sequence[Prediction]) -> NDArray[np.float64] | None:
    """Return `Prediction.positive_probability` of every record of one task at once, (n).

    Return None unless all records have scores, and for a task without a positive label.
    """
    if not predictions or predictions[0].task not in LABELS:
        return None
    if not all(prediction.scores for prediction in predictions):
        return None

    negative, positive = LABELS[predictions[0].task]
    margins = [
        prediction.scores[positive] - prediction.scores[negative] for prediction in predictions
    ]
    probabilities: NDArray[np.float64] = expit(np.array(margins))
    return probabilities


def is_positive(predictions: Sequence[Prediction]) -> NDArray[np.bool_]:
    """Return whether each record of one task is truly positive (abnormal, different), (n)."""
    positive = LABELS[predictions[0].task][1]
    return np.array([prediction.expected == positive for prediction in predictions])
