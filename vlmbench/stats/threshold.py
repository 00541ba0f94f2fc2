"""The threshold of least expected cost on a calibrated score, and that expected cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmbench.stats.basis import Basis, Source
from vlmbench.stats.calibrate import Calibration, log_odds
from vlmbench.stats.estimates import estimate, estimate_rate
from vlmbench.stats.rule import Rule
from vlmbench.types import LABELS, Difference, Estimate, Prediction, Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A record is judged positive where its calibrated score is above `value`.

    `cost` is the expected cost of a record in the user's unit. `miss_rate` and `overkill_rate` are
    the two kinds of error. All three are measured on the records that `measured_on` names. If
    `checkpoints` is more than 1, these records chose among that many, and the three are too low.

    `rule_without_model` is the cheaper of two rules: pass every part, or stop every part.
    `cost_without_model` is its expected cost of a record, and `saving` is what the threshold costs
    less than that.
    """

    value: float
    cost: Estimate
    miss_rate: Estimate
    overkill_rate: Estimate
    cost_without_model: float
    rule_without_model: str
    saving: Estimate
    prevalence: float | None
    measured_on: Source
    checkpoints: int

    @property
    def is_cheaper(self) -> bool:
        """Return whether the interval of `saving` lies above 0."""
        return self.saving.low > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Costs:
    """Costs in units of the larger one, so that a cost lies between 0 and 1 as metrics do.

    `prevalence` is the share of positive records; None takes their share among the records.
    """

    miss: float
    overkill: float
    prevalence: float | None

    def without_model(self, records: Sequence[Prediction]) -> tuple[float, float]:
        """Return the mean cost of passing every part, and of stopping every part."""
        positive = [_is_positive(record) for record in records]
        share = float(np.mean(positive)) if self.prevalence is None else self.prevalence
        return share * self.miss, (1 - share) * self.overkill

    def with_model(self, records: Sequence[Prediction]) -> float | None:
        """Return the mean cost of the records' decisions; None if they lack a label."""
        positive = np.array([_is_positive(record) for record in records])
        wrong = np.array([not record.correct for record in records])

        cost = 0.0
        labels = (positive, ~positive)
        for members, cost_of_all in zip(labels, self.without_model(records), strict=True):
            if members.any():
                cost += cost_of_all * float(wrong[members].mean())
            elif self.prevalence is not None:  # these records cannot show one of the two errors
                return None

        return cost


def cheapest_threshold(
    basis: Basis,
    calibration: Calibration,
    *,
    cost_miss: float,
    cost_overkill: float,
    prevalence: float | None,
    seed: int,
) -> Threshold:
    """Return the threshold of `calibration`, and what it costs on the records of `basis`.

    For a calibrated probability, the best threshold follows from the costs alone:
    overkill / (miss + overkill) (Elkan 2001).
    """
    value = cost_overkill / (cost_miss + cost_overkill)
    decided = _decide(basis, log_odds(value) - calibration.shift(prevalence))

    largest = max(cost_miss, cost_overkill)
    costs = _Costs(
        miss=cost_miss / largest, overkill=cost_overkill / largest, prevalence=prevalence
    )
    pass_all, stop_all = costs.without_model(decided)
    rule = 0 if pass_all <= stop_all else 1
    figures = estimate(_cost_metric(costs, rule), decided, seed=seed)

    return Threshold(
        value=value,
        cost=_in_unit(figures["cost"], largest),
        miss_rate=_error_rate(decided, positive=True),
        overkill_rate=_error_rate(decided, positive=False),
        cost_without_model=largest * min(pass_all, stop_all),
        rule_without_model=("pass every part", "stop every part")[rule],
        saving=_in_unit(figures["saving"], largest),
        prevalence=prevalence,
        measured_on=basis.source,
        checkpoints=basis.checkpoints,
    )


def measure_errors(basis: Basis, calibration: Calibration, rule: Rule) -> tuple[Estimate, Estimate]:
    """Return the rates of misses and overkill by `rule`, on the records of `basis`.

    With a calibration that is blind, the records keep their own labels.
    """
    decided: Sequence[Prediction] = basis.records
    if not calibration.is_blind:
        _, offset = rule.line(calibration)
        decided = _decide(basis, calibration.intercept - offset)
    return _error_rate(decided, positive=True), _error_rate(decided, positive=False)


def _decide(basis: Basis, limit: float) -> list[Prediction]:
    """Return the records with the label that a threshold on their log-odds gives them."""
    return [
        replace(record, predicted=LABELS[record.task][int(odds > limit)])
        for record, odds in zip(basis.records, basis.log_odds, strict=True)
    ]


def _cost_metric(
    costs: _Costs, rule: int
) -> Callable[[Sequence[Prediction]], dict[str, Rate | float]]:
    """Return a metric: the mean cost of a record, and the saving against a rule without a model."""

    def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
        cost = costs.with_model(predictions)
        if cost is None:
            return {}
        return {"cost": cost, "saving": Difference(costs.without_model(predictions)[rule] - cost)}

    return measure


def _in_unit(figure: Estimate, unit: float) -> Estimate:
    return replace(
        figure, value=figure.value * unit, low=figure.low * unit, high=figure.high * unit
    )


def _error_rate(decided: Sequence[Prediction], *, positive: bool) -> Estimate:
    members = [record for record in decided if _is_positive(record) is positive]
    hits = tuple(not record.correct for record in members)
    parts = tuple(record.cluster for record in members)
    return estimate_rate(Rate(hits=hits, parts=parts))


def _is_positive(prediction: Prediction) -> bool:
    return prediction.expected == LABELS[prediction.task][1]
