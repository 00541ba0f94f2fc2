"""Intervals, paired comparisons, corrections and power. Records of one group (a part) are never taken as independent.

Nothing is assumed that few records could contradict: a figure without observed spread still has an interval, because
half a miss (or one changed group) is always added to what was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from vlmbench.types import Estimate, Prediction, Probe, Rate, UserError

Floats = NDArray[np.float64]
Measure = Callable[[Sequence[Prediction]], Mapping[str, Rate | float]]

MAX_UNDEFINED = 0.05  # share of resamples without the figure above which its interval says nothing
POWER = 0.8
SMALLEST_SHOWN = 0.01  # an observed difference below this is taken as none when power is planned ...
PLANNED = 0.05  # ... and the records for this one are counted instead


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How much more often a is right than b, with its 95 % interval and what it would take to know better.

    `n_seeds` is that of the side with fewer. `mcnemar_p` is the exact McNemar test, which takes every record as
    independent; None unless each side has one seed.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n_records: int
    n_groups: int
    n_seeds: int
    power_note: str
    mcnemar_p: float | None


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
    ordinary records. Fewer than two groups, or a figure that more than 5 % of the resamples leave undefined, give no
    interval: the bounds are then 0 and 1 for a Rate, -1 and 1 for a float, which hold for any share or difference.
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
            found[name] = Estimate(value=value, low=low, high=high, n=n, n_groups=n_groups)
    return {name: found[name] for name in figures}


def compare(
    a: Sequence[Sequence[Prediction]], b: Sequence[Sequence[Prediction]], *, seed: int, draws: int = 20_000
) -> Comparison:
    """Accuracy of a minus accuracy of b on the same ordinary records; the outer sequences have an entry a seed.

    A generalized interval (Weerahandi 1993) for records in groups crossed with seeds, from the variance of the groups'
    mean paired difference (cluster sandwich) and that of the seeds' accuracies. It is drawn rather than resampled: a
    bootstrap of three seeds sees two thirds of their variance and finds differences between equal variants. With one
    seed on each side what another seed would change is unknown and left out, and the power note says so.

    Raises UserError where a record is not in every entry, or there is none.
    """
    groups, correct_a, correct_b = _paired(a, b)
    return compare_correct(correct_a, correct_b, groups, seed=seed, draws=draws)


def compare_correct(
    correct_a: Floats, correct_b: Floats, groups: NDArray[np.intp], *, seed: int, draws: int = 20_000
) -> Comparison:
    """As `compare`, from whether each side was right, (seeds, n) of 0 and 1, and the numbers of the groups, (n)."""
    difference, n_records = float(correct_a.mean() - correct_b.mean()), len(groups)
    n_groups, n_seeds = int(groups.max()) + 1, min(len(correct_a), len(correct_b))
    low, high, p_value = -1.0, 1.0, 1.0
    note = "One record group tells nothing about others; at least two are needed."
    if n_groups > 1:
        residuals = correct_a.mean(axis=0) - correct_b.mean(axis=0) - difference
        seen = _cluster_sum_of_squares(residuals, groups) / n_records**2
        from_groups = max(seen, _mean_group_size(groups) / n_records**2)  # at least what one changed group would give
        seeds = _seed_variance(correct_a, correct_b, groups)
        errors = _error_draws(from_groups, seeds, n_groups=n_groups, rng=np.random.default_rng(seed), draws=draws)
        half = float(np.quantile(errors, 0.95))
        low, high = max(difference - half, -1.0), min(difference + half, 1.0)
        p_value = float((1 + (errors >= abs(difference)).sum()) / (1 + draws))
        note = _power_note(difference, seen * n_groups, seeds.excess, n_groups, n_seeds)
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        n_records=n_records,
        n_groups=n_groups,
        n_seeds=n_seeds,
        power_note=note,
        mcnemar_p=_mcnemar(correct_a[0], correct_b[0]) if len(correct_a) == len(correct_b) == 1 else None,
    )


def verdict(comparison: Comparison, *, margin: float = 0.02) -> str:
    """What the interval allows to be said of a against b, in words; the first that applies."""
    if comparison.low > 0:
        return "better"
    if comparison.high < 0:
        return "worse"
    if -margin <= comparison.low and comparison.high <= margin:
        return f"no difference larger than {100 * margin:g} points"
    return "not enough data to tell"


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family of comparisons, corrected for their number (Holm 1979), in the order given."""
    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


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
        one_group = _mean_group_size(groups)
        clustered = _cluster_sum_of_squares(hits - value, groups)
        effective = n * (n * value * (1 - value) + 0.5) / (clustered + 0.5 * one_group)
        alpha = 2 * float(norm.sf(t.ppf((1 + confidence) / 2, n_groups - 1)))
    low, high = proportion_confint(value * effective, effective, alpha=alpha, method="wilson")
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value), n=n, n_groups=n_groups)


def _cluster_sum_of_squares(residuals: Floats, groups: NDArray[np.intp]) -> float:
    """Squares of the groups' summed residuals, summed, times G / (G - 1): n^2 times the variance of the mean."""
    sums = np.bincount(groups, residuals)
    return float((sums**2).sum() * len(sums) / (len(sums) - 1))


def _mean_group_size(groups: NDArray[np.intp]) -> float:
    """Records in the group of a random record: the design effect where a group's records are all alike."""
    return float((np.bincount(groups) ** 2).sum() / len(groups))


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
    times the square root of G / (G - 1)). Without any, the margin is Wilson's for a rate of 0 or 1 of G records. A
    figure that no resample shows below 0 has no bound below it.
    """
    defined = draws[~np.isnan(draws)]
    if n_groups < 2 or len(defined) < (1 - MAX_UNDEFINED) * len(draws):
        return -1.0, 1.0
    quantile = float(t.ppf((1 + confidence) / 2, n_groups - 1))
    if np.ptp(defined) < 1e-12 or abs(value) >= 1:
        margin = quantile**2 / (n_groups + quantile**2)
        return max(value - margin, -1.0), min(value + margin, 1.0)
    slope = 1 / (1 - value**2)  # of artanh
    centre = math.atanh(value) - slope * float(defined.mean() - value)
    half = slope * quantile * math.sqrt(n_groups / (n_groups - 1)) * float(defined.std())
    floor = min(0.0, float(defined.min()))
    return min(max(math.tanh(centre - half), floor), value), max(math.tanh(centre + half), value)


def _paired(
    a: Sequence[Sequence[Prediction]], b: Sequence[Sequence[Prediction]]
) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Group numbers (n), and whether each side was right (seeds x n)."""
    runs = [{p.id: p for p in run if p.probe is Probe.NONE} for run in chain(a, b)]
    ids = list(dict.fromkeys(chain.from_iterable(runs)))
    if not ids:
        raise UserError("there are no records to compare; evaluate both runs on held-out records")
    for name in ids:
        if not all(name in run for run in runs):
            raise UserError(
                f"record '{name}' was predicted by some of the compared runs and not by others; evaluate them on the "
                "same held-out records"
            )
    _, groups = np.unique(np.array([runs[0][name].group for name in ids]), return_inverse=True)
    correct = np.array([[run[name].correct for name in ids] for run in runs], dtype=np.float64)
    return groups, correct[: len(a)], correct[len(a) :]


@dataclass(frozen=True, slots=True)
class _SeedVariance:
    """`observed`: variance of the difference between the sides as their seeds' accuracies show it, pooled over both;
    `chance`: the part of it that seeds of equal quality would show on so many groups."""

    observed: float
    chance: float
    freedom: int

    @property
    def excess(self) -> float:
        return max(self.observed - self.chance, 0.0)


def _seed_variance(correct_a: Floats, correct_b: Floats, groups: NDArray[np.intp]) -> _SeedVariance:
    """From arrays of seeds x n; zero where each side has one seed."""
    freedom = len(correct_a) + len(correct_b) - 2
    observed = chance = 0.0
    for side in (correct_a, correct_b):
        means = side.mean(axis=1, keepdims=True)
        observed += float(((means - side.mean()) ** 2).sum())
        interaction = side - means - side.mean(axis=0) + side.mean()
        chance += sum(_cluster_sum_of_squares(row, groups) for row in interaction) / len(groups) ** 2
    scale = (1 / len(correct_a) + 1 / len(correct_b)) / max(freedom, 1)
    return _SeedVariance(observed * scale, chance * scale, freedom)


def _error_draws(
    from_groups: float, seeds: _SeedVariance, *, n_groups: int, rng: np.random.Generator, draws: int
) -> Floats:
    """What |estimate - truth| may be: t for the groups, plus a normal for the seeds whose variance is itself drawn.

    The seeds' true variance has the distribution of observed * freedom / chi-square(freedom), less what chance gives,
    which the groups' part holds already.
    """
    errors = rng.standard_t(n_groups - 1, draws) * math.sqrt(from_groups)
    if seeds.freedom > 0:
        variance = seeds.observed * seeds.freedom / rng.chisquare(seeds.freedom, draws) - seeds.chance
        errors += rng.standard_normal(draws) * np.sqrt(np.maximum(variance, 0.0))
    return np.abs(errors)


def _mcnemar(correct_a: Floats, correct_b: Floats) -> float:
    only_a, only_b = int((correct_a > correct_b).sum()), int((correct_b > correct_a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)


def _power_note(difference: float, per_group: float, from_seeds: float, n_groups: int, n_seeds: int) -> str:
    """`per_group` is the variance seen of one group's part, so that `per_group` / G is that of G groups."""
    target = abs(difference) if abs(difference) >= SMALLEST_SHOWN else PLANNED
    room = (target / float(norm.ppf(0.975) + norm.ppf(POWER))) ** 2 - from_seeds
    seen = f"{100 * POWER:.0f} % power to see a difference of {100 * target:.1f} points"
    if room <= 0:
        return f"No number of parts gives {seen} while the seeds vary as they do; train more than {n_seeds}."
    needed = math.ceil(max(per_group / room, room**-0.5))  # the second: so many that one changed group is noise
    note = f"About {needed} parts give {seen}; there are {n_groups}."
    if n_seeds == 1:
        note += " One seed: this compares two trained models; what another seed would change is not in the interval."
    return note
