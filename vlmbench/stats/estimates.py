"""Single figures with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

from vlmbench.stats.clusters import Floats, mean_group_size, sum_of_squares
from vlmbench.types import Difference, Estimate, Prediction, Probe, Rate

Measure = Callable[[Sequence[Prediction]], Mapping[str, Rate | float]]

MAX_UNDEFINED = 0.05  # share of resamples without the figure above which its interval says nothing


def estimate(
    measure: Measure,
    predictions: Sequence[Prediction],
    *,
    seed: int,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Every figure of a metric with its interval; the order of the predictions does not matter.

    A Rate's interval is Wilson's, with the effective number of records where groups repeat. A float's is a bootstrap
    over whole groups (see `_bootstrap_interval`); it rests on the records of the Rates beside it, or else on the
    ordinary records. No interval goes beyond what its figure can be: 0 and 1, or -1 and 1 for a Difference. Fewer than
    two groups, or a figure that more than 5 % of the resamples leave undefined, give just these bounds.
    """
    figures = measure(predictions)
    rates = {name: figure for name, figure in figures.items() if isinstance(figure, Rate)}
    floats = {name: figure for name, figure in figures.items() if not isinstance(figure, Rate)}
    found = {name: estimate_rate(rate, confidence) for name, rate in rates.items()}
    if floats:
        basis = list(rates.values()) or [_ordinary_records(predictions)]
        n = max(len(rate.groups) for rate in basis)
        n_groups = max(len(set(rate.groups)) for rate in basis)
        draws = _bootstrap(measure, predictions, list(floats), seed=seed, resamples=resamples)
        for name, value in floats.items():
            low, high = _bootstrap_interval(value, draws[name], n_groups=n_groups, confidence=confidence)
            found[name] = Estimate(value=float(value), low=low, high=high, n=n, n_groups=n_groups)
    return {name: found[name] for name in figures}


def estimate_rate(rate: Rate, confidence: float = 0.95) -> Estimate:
    """Wilson (1927), on the effective number of records and with t's quantile (Korn & Graubard 1998) for groups.

    The design effect is the cluster sandwich variance over the binomial one, with half a miss added to both that is
    as correlated within its group as can be. Misses that happen to lie in different groups, or no miss at all, so
    prove little independence: without a miss, the effective number is that of the groups (less where their sizes
    differ).
    """
    hits = np.array(rate.hits, dtype=np.float64)
    names, groups = np.unique(np.array(rate.groups), return_inverse=True)
    n, n_groups, value = len(hits), len(names), float(hits.mean())
    if n_groups < 2:
        return Estimate(value=value, low=0.0, high=1.0, n=n, n_groups=n_groups)
    effective, alpha = float(n), 1 - confidence
    if n_groups < n:
        one_group = mean_group_size(groups)
        clustered = sum_of_squares(hits - value, groups)
        effective = n * (n * value * (1 - value) + 0.5) / (clustered + 0.5 * one_group)
        alpha = 2 * float(norm.sf(t.ppf((1 + confidence) / 2, n_groups - 1)))
    low, high = proportion_confint(value * effective, effective, alpha=alpha, method="wilson")
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value), n=n, n_groups=n_groups)


def _ordinary_records(predictions: Sequence[Prediction]) -> Rate:
    records = [prediction for prediction in predictions if prediction.probe is Probe.NONE]
    return Rate(hits=(True,) * len(records), groups=tuple(record.group for record in records))


def _bootstrap(
    measure: Measure, predictions: Sequence[Prediction], names: Sequence[str], *, seed: int, resamples: int
) -> dict[str, Floats]:
    """The figures of `resamples` samples of whole groups, drawn with replacement; nan where one is undefined.

    A group drawn twice brings its records twice under the same ids, so probes still find the records they came from.
    """
    members: dict[str, list[Prediction]] = {}
    for prediction in sorted(predictions, key=lambda prediction: (prediction.group, prediction.id)):
        members.setdefault(prediction.group, []).append(prediction)
    groups = list(members.values())
    chosen = np.random.default_rng(seed).integers(len(groups), size=(resamples, len(groups)))
    draws = np.full((len(names), resamples), np.nan)
    for i, row in enumerate(chosen.tolist()):
        figures = measure(list(chain.from_iterable(groups[g] for g in row)))
        draws[:, i] = [figures.get(name, np.nan) for name in names]
    return dict(zip(names, draws, strict=True))


def _bootstrap_interval(value: float, draws: Floats, *, n_groups: int, confidence: float) -> tuple[float, float]:
    """A t interval on Fisher's z scale from the resamples' spread, less the bias that they show.

    artanh keeps the bounds of a share or a difference within -1 and 1 and its error nearly normal close to them, where
    percentile intervals cover too seldom. The spread is widened for few groups (Hesterberg 2015, arXiv:1411.5279:
    times the square root of G / (G - 1)). Without any, the margin is Wilson's for a rate of 0 or 1 of G records.
    """
    least = -1.0 if isinstance(value, Difference) else 0.0
    defined = draws[~np.isnan(draws)]
    if n_groups < 2 or len(defined) < (1 - MAX_UNDEFINED) * len(draws):
        return least, 1.0
    quantile = float(t.ppf((1 + confidence) / 2, n_groups - 1))
    if np.ptp(defined) < 1e-12 or abs(value) >= 1:
        margin = quantile**2 / (n_groups + quantile**2)
        return max(value - margin, least), min(value + margin, 1.0)
    slope = 1 / (1 - value**2)  # of artanh
    centre = math.atanh(value) - slope * float(defined.mean() - value)
    half = slope * quantile * math.sqrt(n_groups / (n_groups - 1)) * float(defined.std())
    return min(max(math.tanh(centre - half), least), value), max(math.tanh(centre + half), value)
