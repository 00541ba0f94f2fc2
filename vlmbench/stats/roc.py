"""The receiver operating characteristic of scored records, with a band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from vlmbench.stats.clusters import Floats
from vlmbench.stats.estimates import MAX_UNDEFINED
from vlmbench.types import LABELS, Prediction

GRID = np.linspace(0.0, 1.0, 101)  # false-positive rates at which curves are read


@dataclass(frozen=True, slots=True, kw_only=True)
class RocBand:
    """True-positive rates at the false-positive rates of GRID, (101,) each, with their pointwise 95 % bounds.

    `n_positive` and `n_negative` count the records of one seed.
    """

    rate: Floats
    low: Floats
    high: Floats
    n_positive: int
    n_negative: int
    n_groups: int
    n_seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """One run's records from the highest score down: (n) each; `ends` are the last of every distinct score."""

    positive: NDArray[np.bool_]
    groups: NDArray[np.intp]
    ends: NDArray[np.intp]

    def curves(self, weights: Floats) -> Floats:
        """(draws, 101) from what each group weighs in each draw, (draws, groups); nan where a class is missing."""
        of_records = weights[:, self.groups]
        hits, alarms = (
            np.pad(np.cumsum(of_records * side, axis=1)[:, self.ends], ((0, 0), (1, 0)))
            for side in (self.positive, ~self.positive)
        )
        with np.errstate(invalid="ignore"):
            hits, alarms = hits / hits[:, -1:], alarms / alarms[:, -1:]
        return np.stack([np.interp(GRID, x, y) for x, y in zip(alarms, hits, strict=True)])


def roc_band(runs: Sequence[Sequence[Prediction]], *, seed: int, resamples: int = 400) -> RocBand | None:
    """Of ordinary predictions of one task, an entry a seed; None unless all have scores and both labels occur.

    The seeds' curves are averaged at equal false-positive rates (vertical averaging: Fawcett 2006, Pattern Recognition
    Letters 27, section 8). The band is a percentile bootstrap over whole groups, the same for all seeds: it does not
    hold what another seed would change. Where no resample differs it has the margin of Wilson's interval for a rate of
    1 (or 0) of as many groups as have positives; bounds never fall with the false-positive rate, because rates do not.
    """
    names = sorted({prediction.group for run in runs for prediction in run})
    numbers = {name: number for number, name in enumerate(names)}
    scored = [_scored(run, numbers) for run in runs]
    known = [one for one in scored if one is not None]
    if not known or len(known) < len(scored):
        return None
    rate = np.mean([one.curves(np.ones((1, len(names))))[0] for one in known], axis=0)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    draws = np.mean([one.curves(drawn.astype(np.float64)) for one in known], axis=0)
    first = known[0]
    low, high = _bounds(rate, draws, n_groups=len(np.unique(first.groups[first.positive])))
    return RocBand(
        rate=rate,
        low=low,
        high=high,
        n_positive=int(first.positive.sum()),
        n_negative=int((~first.positive).sum()),
        n_groups=len(names),
        n_seeds=len(runs),
    )


def _scored(run: Sequence[Prediction], numbers: dict[str, int]) -> _Scored | None:
    probabilities = [prediction.positive_probability for prediction in run if prediction.scores]
    if not run or len(probabilities) < len(run):
        return None
    order = np.argsort(-np.array(probabilities, dtype=np.float64), kind="stable")
    values = np.array(probabilities, dtype=np.float64)[order]
    positive = np.array([prediction.expected == LABELS[prediction.task][1] for prediction in run])[order]
    if positive.all() or not positive.any():
        return None
    groups = np.array([numbers[prediction.group] for prediction in run])[order]
    return _Scored(positive=positive, groups=groups, ends=np.flatnonzero(np.append(np.diff(values) != 0, True)))


def _bounds(rate: Floats, draws: Floats, *, n_groups: int) -> tuple[Floats, Floats]:
    defined = draws[~np.isnan(draws).any(axis=1)]
    if n_groups < 2 or len(defined) < (1 - MAX_UNDEFINED) * len(draws):
        return np.zeros_like(rate), np.ones_like(rate)
    low, high = np.quantile(defined, (0.025, 0.975), axis=0)
    squared = float(norm.ppf(0.975)) ** 2
    margin = np.where(np.ptp(defined, axis=0) < 1e-12, squared / (n_groups + squared), 0.0)
    low = np.maximum.accumulate(np.minimum(low, rate) - margin).clip(0.0, 1.0)
    high = np.minimum.accumulate((np.maximum(high, rate) + margin)[::-1])[::-1].clip(0.0, 1.0)
    return np.minimum(low, rate), np.maximum(high, rate)
