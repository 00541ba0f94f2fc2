"""Single figures with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

from vlmbench.stats.clusters import Design, Floats, number_clusters
from vlmbench.types import Difference, Estimate, Prediction, Probe, Rate

Measure = Callable[[Sequence[Prediction]], Mapping[str, Rate | float]]

MAX_BLOCKS = 400  # more clusters are joined at random: a figure is computed once without each block


def estimate(
    measure: Measure, predictions: Sequence[Prediction], *, seed: int, confidence: float = 0.95
) -> dict[str, Estimate]:
    """Return every figure of a metric with its interval, whatever the order of the predictions.

    The interval of a Rate is Wilson's, with the effective number of records where parts repeat. The
    interval of a float is a jackknife over whole clusters (see `_jackknife_interval`). A float
    rests on the records of the Rates beside it, or else on the ordinary records. `seed` joins
    clusters where there are more than MAX_BLOCKS.

    No interval exceeds the bounds of its figure: 0 and 1, or -1 and 1 for a Difference. The
    interval is these bounds for fewer than two clusters, and for a figure that one cluster decides.
    """
    figures = measure(predictions)
    rates = {name: figure for name, figure in figures.items() if isinstance(figure, Rate)}
    floats = {name: figure for name, figure in figures.items() if not isinstance(figure, Rate)}

    estimates = {name: estimate_rate(rate, confidence) for name, rate in rates.items()}
    if floats:
        basis = list(rates.values()) or [_ordinary_records(predictions)]
        n = max(len(rate.parts) for rate in basis)
        n_parts = max(len(set(rate.parts)) for rate in basis)
        blocks = _blocks(predictions, seed)
        without = _without_each(measure, predictions, list(floats), blocks)
        quantile = _quantile(predictions, blocks, confidence) if n_parts > 1 else math.inf

        for name, value in floats.items():
            low, high = _jackknife_interval(value, without[name], quantile)
            estimates[name] = Estimate(
                value=float(value),
                low=low,
                high=high,
                n=n,
                n_parts=n_parts,
            )

    return {name: estimates[name] for name in figures}


def estimate_rate(rate: Rate, confidence: float = 0.95) -> Estimate:
    """Return a rate with Wilson's interval (1927) on the effective number of records.

    The quantile is t's (Korn & Graubard 1998) for the degrees of freedom of the clusters.

    The design effect is the jackknife variance over the binomial one. Half a miss is added to both,
    with the highest possible correlation within its part. So misses that happen to lie in different
    parts prove little independence, and so does no miss at all. Without a miss, the effective
    number is the number of parts, or less where their sizes differ.
    """
    hits = np.array(rate.hits, dtype=np.float64)
    design = Design(
        clusters=number_clusters(rate.parts),
        classes=np.zeros(len(hits), dtype=np.intp),
        class_weights=np.ones(1),
    )
    n, n_parts, value = len(hits), design.num_clusters, float(hits.mean())
    if n_parts < 2:
        return Estimate(
            value=value,
            low=0.0,
            high=1.0,
            n=n,
            n_parts=n_parts,
        )

    effective, alpha = float(n), 1 - confidence
    if n_parts < n:
        clustered = n**2 * design.variance(hits - value)
        one_part = n**2 * design.one_record
        effective = n * (n * value * (1 - value) + 0.5) / (clustered + 0.5 * one_part)
        freedom = design.freedom(design.likeness(hits - value))
        alpha = 2 * float(norm.sf(t.ppf((1 + confidence) / 2, freedom)))

    low, high = proportion_confint(value * effective, effective, alpha=alpha, method="wilson")
    return Estimate(
        value=value, low=min(float(low), value), high=max(float(high), value), n=n, n_parts=n_parts
    )


def _ordinary_records(predictions: Sequence[Prediction]) -> Rate:
    records = [prediction for prediction in predictions if prediction.probe is Probe.NONE]
    return Rate(hits=(True,) * len(records), parts=tuple(record.cluster for record in records))


def _blocks(predictions: Sequence[Prediction], seed: int) -> NDArray[np.intp]:
    """Return the block of each prediction: its cluster, or clusters joined at random."""
    names = sorted({prediction.cluster for prediction in predictions})
    numbers = np.arange(len(names))
    if len(names) > MAX_BLOCKS:
        numbers = np.random.default_rng(seed).permutation(len(names)) % MAX_BLOCKS

    block_of = dict(zip(names, numbers.tolist(), strict=True))
    return np.array([block_of[prediction.cluster] for prediction in predictions], dtype=np.intp)


def _without_each(
    measure: Measure,
    predictions: Sequence[Prediction],
    names: Sequence[str],
    blocks: NDArray[np.intp],
) -> dict[str, Floats]:
    """Return the figures without each block, (blocks); nan where a figure is then undefined."""
    figures = []
    for block in range(int(blocks.max()) + 1):
        others = [predictions[index] for index in np.flatnonzero(blocks != block).tolist()]
        found = measure(others) if others else {}
        figures.append([found.get(name, np.nan) for name in names])

    columns = np.array(figures, dtype=np.float64).T
    return dict(zip(names, columns, strict=True))


def _quantile(
    predictions: Sequence[Prediction], blocks: NDArray[np.intp], confidence: float
) -> float:
    """Return t's quantile for blocks of these sizes, whose records are as alike as their errors."""
    design = Design(
        clusters=blocks, classes=np.zeros(len(blocks), dtype=np.intp), class_weights=np.ones(1)
    )
    hits = np.array([prediction.correct for prediction in predictions], dtype=np.float64)
    likeness = design.likeness(hits - hits.mean())
    return float(t.ppf((1 + confidence) / 2, design.freedom(likeness)))


def _jackknife_interval(value: float, without: Floats, quantile: float) -> tuple[float, float]:
    """Return a t interval on Fisher's z scale, from the figures without each block.

    The scale, artanh, keeps the bounds of a share or a difference within -1 and 1. Errors on it are
    nearly normal even near the bounds.

    A bootstrap of uneven clusters is too narrow: with one part of 100 records beside 40 of 2 it
    covers 84 to 90 %. Without any spread, the margin is Wilson's for a rate of 0 or 1 of G records.
    """
    least = -1.0 if isinstance(value, Difference) else 0.0
    number = len(without)
    if number < 2 or not math.isfinite(quantile) or np.isnan(without).any():
        return least, 1.0

    if np.ptp(without) < 1e-12 or abs(value) >= 1:
        margin = quantile**2 / (number + quantile**2)
        return max(value - margin, least), min(value + margin, 1.0)

    squares = float(((without - value) ** 2).sum())
    error = math.sqrt((number - 1) / number * squares) / (1 - value**2)  # slope of artanh
    centre = math.atanh(value)

    low = max(math.tanh(centre - quantile * error), least)
    high = math.tanh(centre + quantile * error)
    return min(low, value), max(high, value)
