"""The threshold of least expected cost on a calibrated score, and that expected cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmbench.stats.calibrate import Calibration, out_of_fold
from vlmbench.stats.estimates import estimate, estimate_rate
from vlmbench.types import LABELS, Estimate, Prediction, Probe, Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A record is judged positive where its calibrated score is above `value`.

    `cost` is the expected cost of a record in the user's unit. `miss_rate` and `overkill_rate` are
    the two kinds of error. All three are measured on validation records whose parts the calibration
    did not see.

    `rule_without_model` is the cheaper of two rules: pass every part, or stop every part.
    `cost_without_model` is its expected cost of a record.
    """

    value: float
    cost: Estimate
    miss_rate: Estimate
    overkill_rate: Estimate
    cost_without_model: float
    rule_without_model: str
    prevalence: float | None

    @property
    def is_cheaper(self) -> bool:
        """Return whether the interval of `cost` lies below the cost without a model."""
        return self.cost.high < self.cost_without_model


def cheapest_threshold(
    predictions: Sequence[Prediction],
    calibration: Calibration,
    *,
    cost_miss: float,
    cost_overkill: float,
    prevalence: float | None,
    seed: int,
) -> Threshold:
    """Return the threshold for the validation records that `calibration` was fitted on.

    For a calibrated probability, the best threshold follows from the costs alone:
    overkill / (miss + overkill) (Elkan 2001). Its cost is measured out of fold, because a cost on
    the fitted records would be too low.
    """
    records = [
        prediction
        for prediction in predictions
        if prediction.probe is Probe.NONE and prediction.scores
    ]
    value = cost_overkill / (cost_miss + cost_overkill)
    decided = _decide(records, value, shift=calibration.shift(prevalence))

    # Metrics are from 0 to 1, so costs are relative to the larger one until the end.
    largest = max(cost_miss, cost_overkill)
    measure = _cost_metric(cost_miss / largest, cost_overkill / largest, prevalence)
    relative = estimate(measure, decided, seed=seed)["cost"]
    cost = replace(
        relative,
        value=relative.value * largest,
        low=relative.low * largest,
        high=relative.high * largest,
    )

    positive_share = calibration.base_rate if prevalence is None else prevalence
    pass_all = positive_share * cost_miss
    stop_all = (1 - positive_share) * cost_overkill

    return Threshold(
        value=value,
        cost=cost,
        miss_rate=_error_rate(decided, positive=True),
        overkill_rate=_error_rate(decided, positive=False),
        cost_without_model=min(pass_all, stop_all),
        rule_without_model="pass every part" if pass_all <= stop_all else "stop every part",
        prevalence=prevalence,
    )


def _decide(records: Sequence[Prediction], value: float, *, shift: float) -> list[Prediction]:
    """Return the records with the label that the threshold gives them, calibrated out of fold."""
    limit = np.log(value / (1 - value))
    return [
        replace(record, predicted=LABELS[record.task][int(log_odds + shift > limit)])
        for record, log_odds in zip(records, out_of_fold(records), strict=True)
    ]


def _cost_metric(
    miss: float, overkill: float, prevalence: float | None
) -> Callable[[Sequence[Prediction]], dict[str, Rate | float]]:
    """Return a metric: the mean cost of a record.

    `prevalence` is the share of positive records; None takes their share among the records.
    """

    def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
        positive = np.array([_is_positive(prediction) for prediction in predictions])
        wrong = np.array([not prediction.correct for prediction in predictions])
        positive_share = float(positive.mean()) if prevalence is None else prevalence

        cost = 0.0
        weights = ((positive, positive_share * miss), (~positive, (1 - positive_share) * overkill))
        for members, weight in weights:
            if members.any():
                cost += weight * float(wrong[members].mean())
            elif prevalence is not None:  # this resample cannot show one of the two errors
                return {}

        return {"cost": cost}

    return measure


def _error_rate(decided: Sequence[Prediction], *, positive: bool) -> Estimate:
    members = [record for record in decided if _is_positive(record) is positive]
    hits = tuple(not record.correct for record in members)
    parts = tuple(record.cluster for record in members)
    return estimate_rate(Rate(hits=hits, parts=parts))


def _is_positive(prediction: Prediction) -> bool:
    return prediction.expected == LABELS[prediction.task][1]
