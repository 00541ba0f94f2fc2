"""The figure that a verdict is about, and how calibrated scores become decisions for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmbench.stats.calibrate import Calibration, probability
from vlmbench.stats.figures import Compared, Costs

EVEN = 0.5  # balanced accuracy weighs both labels alike, as if half of the records were positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The figure that a verdict is about, and how scores become decisions for it.

    A record is judged positive where its calibrated log-odds, at `prevalence`, exceed `limit`. For
    a calibrated probability this is the best threshold for the figure (Elkan 2001). `prevalence`
    None keeps the share of positive validation records.
    """

    figure: Compared
    costs: Costs | None = None

    @property
    def prevalence(self) -> float | None:
        if self.figure is Compared.COST and self.costs is not None:
            return self.costs.prevalence
        return None if self.figure is Compared.ACCURACY else EVEN

    @property
    def limit(self) -> float:
        if self.figure is Compared.COST and self.costs is not None:
            return math.log(self.costs.overkill) - math.log(self.costs.miss)
        return 0.0

    def line(self, calibration: Calibration) -> tuple[float, float]:
        """Return (slope, offset): a record is judged positive where slope * margin + offset > 0.

        A calibration that is blind has the same score for all records, so the model's own label
        stays: (1, 0).
        """
        if calibration.is_blind:
            return 1.0, 0.0
        shift = calibration.shift(self.prevalence)
        return calibration.slope, calibration.intercept + shift - self.limit

    def limit_score(self, calibration: Calibration, prevalence: float | None = None) -> float:
        """Return the score, at this prevalence in use, above which a record is judged positive.

        It is the score of all records for a calibration that is blind.
        """
        if calibration.is_blind:
            return calibration.score(0.0, prevalence)
        _, offset = self.line(calibration)
        return probability(calibration.intercept - offset + calibration.shift(prevalence))

    def is_positive(self, margin: float, calibration: Calibration) -> bool:
        """Return whether a record of this margin is judged positive."""
        slope, offset = self.line(calibration)
        return slope * margin + offset > 0

    @property
    def words(self) -> str:
        """Return the name of the figure, as in "points of balanced accuracy"."""
        names = {Compared.AUROC: "AUROC", Compared.COST: "expected cost"}
        return names.get(self.figure, str(self.figure).replace("_", " "))


def rule_of(config: Mapping[str, Any]) -> Rule:
    """Return the rule of a run's configuration; balanced accuracy where it names none."""
    settings = config.get("eval")
    values = settings if isinstance(settings, Mapping) else {}
    miss, overkill = _positive(values.get("cost_miss")), _positive(values.get("cost_overkill"))
    costs = None
    if miss is not None and overkill is not None:
        prevalence = _positive(values.get("prevalence"))
        is_share = prevalence is not None and prevalence < 1
        costs = Costs(
            miss=miss,
            overkill=overkill,
            prevalence=prevalence if is_share else None,
        )

    primary = str(values.get("primary", "auto"))
    if primary == "auto":
        primary = "cost" if costs is not None else "balanced_accuracy"
    known = {str(figure): figure for figure in Compared}
    figure = known.get(primary, Compared.BALANCED_ACCURACY)
    if figure is Compared.COST and costs is None:
        figure = Compared.BALANCED_ACCURACY
    return Rule(figure=figure, costs=costs if figure is Compared.COST else None)


def _positive(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and value > 0 else None
