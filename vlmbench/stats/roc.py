"""The receiver operating characteristic of scored records, with a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from vlmbench.stats.clusters import Floats
from vlmbench.types import LABELS, Prediction

GRID = np.linspace(0.0, 1.0, 101)  # the false-positive rates at which curves are read

MAX_UNDEFINED = 0.05  # more undefined resamples give the widest band


@dataclass(frozen=True, slots=True, kw_only=True)
class RocBand:
    """True-positive rates at the false-positive rates of GRID, with pointwise 95 % bounds.

    `rate`, `low` and `high` are (101). `n_positive` and `n_negative` count the records of one seed.
    """

    rate: Floats
    low: Floats
    high: Floats
    n_positive: int
    n_negative: int
    n_parts: int
    n_seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _RankedRun:
    """The records of one run from the highest score down, (n) each.

    `ends` are the positions of the last record of every distinct score.
    """

    positive: NDArray[np.bool_]
    parts: NDArray[np.intp]
    ends: NDArray[np.intp]

    def curves(self, weights: Floats) -> Floats:
        """Return curves, (draws, 101), from the weight of each part in each draw, (draws, parts).

        nan stands for a curve whose draw lacks a class.
        """
        record_weights = weights[:, self.parts]
        hits = self._cumulate(record_weights * self.positive)
        alarms = self._cumulate(record_weights * ~self.positive)

        with np.errstate(invalid="ignore"):
            hits, alarms = hits / hits[:, -1:], alarms / alarms[:, -1:]

        return np.stack([np.interp(GRID, x, y) for x, y in zip(alarms, hits, strict=True)])

    def _cumulate(self, weights: Floats) -> Floats:
        totals = np.cumsum(weights, axis=1)[:, self.ends]
        return np.pad(totals, ((0, 0), (1, 0)))


def roc_band(
    runs: Sequence[Sequence[Prediction]], *, seed: int, resamples: int = 400
) -> RocBand | None:
    """Return the band of ordinary predictions of one task, with an entry of `runs` for each seed.

    Return None unless all records have scores and both labels occur.

    The seeds' curves are averaged at equal false-positive rates (vertical averaging: Fawcett 2006,
    Pattern Recognition Letters 27, section 8). The band is a percentile bootstrap over whole parts,
    the same parts for all seeds. It does not hold what another seed would change.

    If no resample differs, the margin is Wilson's for a rate of 1 (or 0). Its number of records is
    then the number of parts with positives. Rates never fall with the false-positive rate, so
    neither do the bounds.
    """
    names = sorted({prediction.cluster for run in runs for prediction in run})
    numbers = {name: number for number, name in enumerate(names)}
    ranked = [_rank(run, numbers) for run in runs]
    complete = [run for run in ranked if run is not None]
    if not complete or len(complete) < len(ranked):
        return None

    rate = np.mean([run.curves(np.ones((1, len(names))))[0] for run in complete], axis=0)

    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    draws = np.mean([run.curves(counts.astype(np.float64)) for run in complete], axis=0)

    first = complete[0]
    n_positive_parts = len(np.unique(first.parts[first.positive]))
    low, high = _bounds(rate, draws, n_parts=n_positive_parts)

    return RocBand(
        rate=rate,
        low=low,
        high=high,
        n_positive=int(first.positive.sum()),
        n_negative=int((~first.positive).sum()),
        n_parts=len(names),
        n_seeds=len(runs),
    )


def _rank(run: Sequence[Prediction], numbers: Mapping[str, int]) -> _RankedRun | None:
    probabilities = [prediction.positive_probability for prediction in run if prediction.scores]
    if not run or len(probabilities) < len(run):
        return None

    scores = np.array(probabilities, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    is_positive = [prediction.expected == LABELS[prediction.task][1] for prediction in run]
    positive = np.array(is_positive)[order]
    if positive.all() or not positive.any():
        return None

    parts = np.array([numbers[prediction.cluster] for prediction in run])[order]
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return _RankedRun(
        positive=positive,
        parts=parts,
        ends=ends,
    )


def _bounds(rate: Floats, draws: Floats, *, n_parts: int) -> tuple[Floats, Floats]:
    defined = draws[~np.isnan(draws).any(axis=1)]
    if n_parts < 2 or len(defined) < (1 - MAX_UNDEFINED) * len(draws):
        return np.zeros_like(rate), np.ones_like(rate)

    low, high = np.quantile(defined, (0.025, 0.975), axis=0)
    squared = float(norm.ppf(0.975)) ** 2
    margin = np.where(np.ptp(defined, axis=0) < 1e-12, squared / (n_parts + squared), 0.0)

    low = np.maximum.accumulate(np.minimum(low, rate) - margin).clip(0.0, 1.0)
    high = np.minimum.accumulate((np.maximum(high, rate) + margin)[::-1])[::-1].clip(0.0, 1.0)
    return np.minimum(low, rate), np.maximum(high, rate)
