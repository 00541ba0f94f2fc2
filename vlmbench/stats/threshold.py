"""From a calibrated score to a decision: the threshold of least expected cost, and what it is expected to cost."""

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

    `cost` is the expected cost a record in the user's unit, `miss_rate` and `overkill_rate` the two ways to be wrong,
    all on validation records whose parts the calibration had not seen. `cost_of_one` is what the cheaper of two
    decisions costs that need no model: pass every part, or stop every part. `told` is whether the interval of `cost`
    lies below it.
    """

    value: float
    cost: Estimate
    miss_rate: Estimate
    overkill_rate: Estimate
    cost_of_one: float
    one: str
    prevalence: float | None

    @property
    def told(self) -> bool:
        return self.cost.high < self.cost_of_one


def cheapest_threshold(
    predictions: Sequence[Prediction],
    calibration: Calibration,
    *,
    cost_miss: float,
    cost_overkill: float,
    prevalence: float | None,
    seed: int,
) -> Threshold:
    """The threshold for the validation records of one task and view that `calibration` was fitted on.

    Of a calibrated probability the best threshold follows from the costs alone: overkill / (miss + overkill) (Elkan
    2001). What it costs is measured out of fold, so that it is not flattered by having been chosen on these records.
    """
    records = [one for one in predictions if one.probe is Probe.NONE and one.scores]
    value = cost_overkill / (cost_miss + cost_overkill)
    shift = calibration.shift(prevalence)
    line = np.log(value / (1 - value))
    decided = [
        replace(one, predicted=LABELS[one.task][int(log_odds + shift > line)])
        for one, log_odds in zip(records, out_of_fold(records), strict=True)
    ]
    largest = max(cost_miss, cost_overkill)
    measure = _cost_of(cost_miss / largest, cost_overkill / largest, prevalence)
    cost = estimate(measure, decided, seed=seed)["cost"]
    share = calibration.base_rate if prevalence is None else prevalence
    pass_all, stop_all = share * cost_miss, (1 - share) * cost_overkill
    return Threshold(
        value=value,
        cost=replace(cost, value=cost.value * largest, low=cost.low * largest, high=cost.high * largest),
        miss_rate=_wrong(decided, positive=True),
        overkill_rate=_wrong(decided, positive=False),
        cost_of_one=min(pass_all, stop_all),
        one="pass every part" if pass_all <= stop_all else "stop every part",
        prevalence=prevalence,
    )


def _cost_of(
    miss: float, overkill: float, prevalence: float | None
) -> Callable[[Sequence[Prediction]], dict[str, Rate | float]]:
    """A metric: the mean cost of a record, where that share of the records is positive (None: as among these)."""

    def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
        positive = np.array([one.expected == LABELS[one.task][1] for one in predictions])
        wrong = np.array([not one.correct for one in predictions])
        share = float(positive.mean()) if prevalence is None else prevalence
        found = 0.0
        for members, weight in ((positive, share * miss), (~positive, (1 - share) * overkill)):
            if members.any():
                found += weight * float(wrong[members].mean())
            elif prevalence is not None:  # a resample that knows nothing of one of the two errors
                return {}
        return {"cost": found}

    return measure


def _wrong(decided: Sequence[Prediction], *, positive: bool) -> Estimate:
    members = [one for one in decided if (one.expected == LABELS[one.task][1]) is positive]
    return estimate_rate(Rate(hits=tuple(not one.correct for one in members), groups=tuple(o.group for o in members)))
