"""How many parts or seeds it takes to see a difference, from the spread of one ablation.

A plan is median-unbiased: half of all possible ablations would have asked for more, half for less.
Three seeds say little about the variance of seeds, so single plans differ by factors. The notes
therefore say "about".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import chi2, norm, t

from vlmbench.stats.clusters import Floats
from vlmbench.stats.spread import Draws, Spread, possible_errors

POWER = 0.8
# An observed difference below the first is taken as none; the plan is then for the second.
MIN_DIFFERENCE, PLANNED_DIFFERENCE = 0.01, 0.05
# Larger plans are not given.
MAX_PARTS, MAX_SEEDS = 100_000, 100
# Ablations imagined for one figure of power, and errors drawn for the interval of each.
ABLATIONS, DRAWS = 50, 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Variances of the difference for one part and one seed of each variant.

    `shared` is the variance of a part that all seeds show. `interaction` is that of a part and a
    seed together. `seeds` is that of a seed. `one_part` is the least variance that is assumed for
    a part, times the number of parts.
    """

    shared: float
    interaction: float
    seeds: float
    one_part: float


def sources(spread: Spread) -> Sources:
    """Return the variances by source.

    The variance of seeds is median-unbiased. `shared` may be below 0; cut off at 0, its median
    would be too large.
    """
    interaction = spread.chance / spread.inverse_seeds * spread.n_parts

    seeds = 0.0
    if spread.freedom:
        observed = spread.seeds * spread.freedom / float(chi2.median(spread.freedom))
        seeds = max(observed - spread.chance, 0.0) / spread.inverse_seeds

    return Sources(
        shared=spread.parts * spread.n_parts - interaction * spread.inverse_seeds,
        interaction=interaction,
        seeds=seeds,
        one_part=spread.one_part * spread.n_parts**2,
    )


def power(variances: Sources, difference: float, *, n_parts: int, n_seeds: int) -> float:
    """Return how often an ablation of this size has an interval above 0.

    `difference` is the true difference. `n_seeds` is the number of seeds of each variant.
    """
    per_seed, freedom = 2 / n_seeds, 2 * (n_seeds - 1)
    least = variances.one_part / n_parts**2
    parts = max((variances.shared + per_seed * variances.interaction) / n_parts, least)
    seeds = per_seed * variances.seeds
    chance = per_seed * variances.interaction / n_parts

    rank = _ranks(ABLATIONS, 2)
    seen_parts = parts * chi2.ppf(rank[0], n_parts - 1) / (n_parts - 1)
    seen_seeds = np.zeros(ABLATIONS)
    if freedom:
        seen_seeds = (seeds + chance) * chi2.ppf(rank[1], freedom) / freedom

    errors = possible_errors(
        _even_draws(n_parts, freedom),
        parts=np.maximum(seen_parts, least)[:, None],
        seeds=seen_seeds[:, None],
        chance=chance,
        freedom=freedom,
    )
    half_widths = np.quantile(errors, 0.95, axis=1)
    return float(norm.cdf((difference - half_widths) / np.sqrt(parts + seeds)).mean())


def _ranks(number: int, columns: int) -> Floats:
    """Return evenly spaced ranks between 0 and 1, (columns, number), the same at every call.

    Each column has an order of its own.
    """
    rng = np.random.default_rng(0)
    return np.array([rng.permutation((np.arange(number) + 0.5) / number) for _ in range(columns)])


@lru_cache(maxsize=256)
def _even_draws(n_parts: int, freedom: int) -> Draws:
    rank = _ranks(DRAWS, 3)
    squared = chi2.ppf(rank[2], freedom) if freedom else None
    return Draws(parts=t.ppf(rank[0], n_parts - 1), seeds=norm.ppf(rank[1]), seeds_squared=squared)


def parts_needed(variances: Sources, difference: float, *, n_seeds: int) -> int | None:
    """Return the fewest parts with POWER; None where MAX_PARTS do not have it."""
    return _fewest(
        lambda number: power(variances, difference, n_parts=number, n_seeds=n_seeds), MAX_PARTS
    )


def seeds_needed(variances: Sources, difference: float, *, n_parts: int) -> int | None:
    """Return the fewest seeds of each variant with POWER; None where MAX_SEEDS do not have it."""
    return _fewest(
        lambda number: power(variances, difference, n_parts=n_parts, n_seeds=number), MAX_SEEDS
    )


def _fewest(power_of: Callable[[int], float], most: int) -> int | None:
    """Return the smallest number from 2 to `most` with POWER, to within 2 %."""
    low, high = 2, most
    if power_of(high) < POWER:
        return None
    if power_of(low) >= POWER:
        return low

    while high - low > max(1, low // 50):
        middle = min(max(round((low * high) ** 0.5), low + 1), high - 1)
        if power_of(middle) >= POWER:
            high = middle
        else:
            low = middle

    return high


def power_note(difference: float, spread: Spread, *, n_seeds: int) -> str:
    """Return in words what it takes to see the difference with 80 % power.

    A difference below MIN_DIFFERENCE is replaced by PLANNED_DIFFERENCE.
    """
    target = abs(difference) if abs(difference) >= MIN_DIFFERENCE else PLANNED_DIFFERENCE
    variances, n_parts = sources(spread), spread.n_parts
    aim = f"{100 * POWER:.0f} % power to see a difference of {100 * target:.1f} points"

    planned_seeds = max(n_seeds, 2) if spread.freedom else 1
    parts = parts_needed(variances, target, n_seeds=planned_seeds)
    if not spread.freedom:
        only = (
            "One seed: this compares two trained models; what another seed would change is not in "
            "the interval."
        )
        return f"{_about_parts(parts)} give {aim}; there are {n_parts}. {only}" if parts else only

    seeds = seeds_needed(variances, target, n_parts=n_parts)
    present = f"there are {n_parts} parts and {n_seeds} seed{'s' * (n_seeds > 1)}."
    if parts and seeds:
        return f"{_about_parts(parts)}, or {seeds} seeds per variant, give {aim}; {present}"
    if parts:
        return f"{_about_parts(parts)} give {aim}, more seeds alone do not; {present}"
    if seeds:
        return f"About {seeds} seeds per variant give {aim}, more parts alone do not; {present}"

    seeds_with_more_parts = seeds_needed(variances, target, n_parts=MAX_PARTS)
    if seeds_with_more_parts:
        return (
            f"Only more of both gives {aim}: about {seeds_with_more_parts} seeds per variant, and "
            f"more parts; {present}"
        )

    return f"No feasible number of parts and seeds gives {aim}; {present}"


def _about_parts(number: int | None) -> str:
    return f"About {number:,} parts" if number else ""
