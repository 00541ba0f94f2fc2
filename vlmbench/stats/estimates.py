"""Single figures with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

from vlmbench.stats.clusters import Floats, mean_part_size, sum_of_squares
from vlmbench.types import Difference, Estimate, Prediction, Probe, Rate

Measure = Callable[[Sequence[Prediction]], Mapping[str, Rate | float]]

# A figure that more of the resamples leave undefined gets the widest interval.
MAX_UNDEFINED = 0.05


def estimate(
    measure: Measure,
    predictions: Sequence[Prediction],
    *,
    seed: int,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Return every figure of a metric with its interval, whatever the order of the predictions.

    The interval of a Rate is Wilson's, with the effective number of records where parts repeat. The
    interval of a float is a bootstrap over whole parts (see `_bootstrap_interval`). A float rests
    on the records of the Rates beside it, or else on the ordinary records.

    No interval exceeds the bounds of its figure: 0 and 1, or -1 and 1 for a Difference. The
    interval is these bounds for fewer than two parts, and for a figure that more than 5 % of the
    resamples leave undefined.
    """
    figures = measure(predictions)
    rates = {name: figure for name, figure in figures.items() if isinstance(figure, Rate)}
    floats = {name: figure for name, figure in figures.items() if not isinstance(figure, Rate)}

    estimates = {name: estimate_rate(rate, confidence) for name, rate in rates.items()}
    if floats:
        basis = list(rates.values()) or [_ordinary_records(predictions)]
        n = max(len(rate.parts) for rate in basis)
        n_parts = max(len(set(rate.parts)) for rate in basis)
        draws = _bootstrap(measure, predictions, list(floats), seed=seed, resamples=resamples)

        for name, value in floats.items():
            low, high = _bootstrap_interval(
                value, draws[name], n_parts=n_parts, confidence=confidence
            )
            estimates[name] = Estimate(value=float(value), low=low, high=high, n=n, n_parts=n_parts)

    return {name: estimates[name] for name in figures}


def estimate_rate(rate: Rate, confidence: float = 0.95) -> Estimate:
    """Return a rate with Wilson's interval (1927) on the effective number of records.

    The quantile is t's (Korn & Graubard 1998) for the number of parts.

    The design effect is the cluster sandwich variance over the binomial one. Half a miss is added
    to both, with the highest possible correlation within its part. So misses that happen to lie in
    different parts prove little independence, and so does no miss at all. Without a miss, the
    effective number is the number of parts, or less where their sizes differ.
    """
    hits = np.array(rate.hits, dtype=np.float64)
    names, parts = np.unique(np.array(rate.parts), return_inverse=True)
    n, n_parts, value = len(hits), len(names), float(hits.mean())
    if n_parts < 2:
        return Estimate(value=value, low=0.0, high=1.0, n=n, n_parts=n_parts)

    effective, alpha = float(n), 1 - confidence
    if n_parts < n:
        one_part = mean_part_size(parts)
        clustered = sum_of_squares(hits - value, parts)
        effective = n * (n * value * (1 - value) + 0.5) / (clustered + 0.5 * one_part)
        alpha = 2 * float(norm.sf(t.ppf((1 + confidence) / 2, n_parts - 1)))

    low, high = proportion_confint(value * effective, effective, alpha=alpha, method="wilson")
    return Estimate(
        value=value, low=min(float(low), value), high=max(float(high), value), n=n, n_parts=n_parts
    )


def _ordinary_records(predictions: Sequence[Prediction]) -> Rate:
    records = [prediction for prediction in predictions if prediction.probe is Probe.NONE]
    return Rate(hits=(True,) * len(records), parts=tuple(record.group for record in records))


def _bootstrap(
    measure: Measure,
    predictions: Sequence[Prediction],
    names: Sequence[str],
    *,
    seed: int,
    resamples: int,
) -> dict[str, Floats]:
    """Return the figures of `resamples` samples of whole parts, drawn with replacement.

    nan stands for an undefined figure. A part that is drawn twice brings its records twice, under
    the same ids, so probes still find their base records.
    """
    records_of_part: dict[str, list[Prediction]] = {}
    for prediction in sorted(predictions, key=lambda prediction: (prediction.group, prediction.id)):
        records_of_part.setdefault(prediction.group, []).append(prediction)

    parts = list(records_of_part.values())
    chosen = np.random.default_rng(seed).integers(len(parts), size=(resamples, len(parts)))

    draws = np.full((len(names), resamples), np.nan)
    for i, numbers in enumerate(chosen.tolist()):
        figures = measure(list(chain.from_iterable(parts[number] for number in numbers)))
        draws[:, i] = [figures.get(name, np.nan) for name in names]

    return dict(zip(names, draws, strict=True))


def _bootstrap_interval(
    value: float, draws: Floats, *, n_parts: int, confidence: float
) -> tuple[float, float]:
    """Return a t interval on Fisher's z scale, from the resamples' spread, less their bias.

    The scale, artanh, keeps the bounds of a share or a difference within -1 and 1. Errors on it are
    nearly normal even near the bounds. There, percentile intervals cover too seldom.

    The spread is widened for few parts: times the square root of G / (G - 1) (Hesterberg 2015,
    arXiv:1411.5279). Without any spread, the margin is Wilson's for a rate of 0 or 1 of G records.
    """
    least = -1.0 if isinstance(value, Difference) else 0.0
    defined = draws[~np.isnan(draws)]
    if n_parts < 2 or len(defined) < (1 - MAX_UNDEFINED) * len(draws):
        return least, 1.0

    quantile = float(t.ppf((1 + confidence) / 2, n_parts - 1))
    if np.ptp(defined) < 1e-12 or abs(value) >= 1:
        margin = quantile**2 / (n_parts + quantile**2)
        return max(value - margin, least), min(value + margin, 1.0)

    slope = 1 / (1 - value**2)  # of artanh
    centre = math.atanh(value) - slope * float(defined.mean() - value)
    half_width = slope * quantile * math.sqrt(n_parts / (n_parts - 1)) * float(defined.std())

    low = max(math.tanh(centre - half_width), least)
    high = math.tanh(centre + half_width)
    return min(low, value), max(high, value)
