"""What it would take to see a difference: ablations of other sizes, imagined from the spread of one.

A plan is median-unbiased: half of the ablations that might have been would have asked for more, half for less. Three
seeds say little about the variance of seeds, so single plans differ by factors; the words say "about".
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
SMALLEST_SHOWN = 0.01  # an observed difference below this is taken as none when power is planned ...
PLANNED = 0.05  # ... and the records for this one are counted instead
MOST_GROUPS, MOST_SEEDS = 100_000, 100  # plans beyond these are not given
ABLATIONS, DRAWS = 50, 2000  # imagined for one figure of power, and errors drawn for each of their intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Variances of the difference between the sides for one group and one seed on each side.

    `shared`: of a group's part that all seeds show. `interaction`: of what a group and a seed make together. `seeds`:
    of a seed. `one_group`: the least that a group's part is taken for, times the number of groups.
    """

    shared: float
    interaction: float
    seeds: float
    one_group: float


def sources(spread: Spread) -> Sources:
    """The variance of seeds is taken median-unbiased. `shared` may come out below 0: cut off, it would be too large in
    the median."""
    interaction = spread.chance / spread.inverse_seeds * spread.n_groups
    seeds = 0.0
    if spread.freedom:
        observed = spread.seeds * spread.freedom / float(chi2.median(spread.freedom))
        seeds = max(observed - spread.chance, 0.0) / spread.inverse_seeds
    return Sources(
        shared=spread.groups * spread.n_groups - interaction * spread.inverse_seeds,
        interaction=interaction,
        seeds=seeds,
        one_group=spread.one_group * spread.n_groups**2,
    )


def power(found: Sources, difference: float, *, n_groups: int, n_seeds: int) -> float:
    """How often an ablation of this size, with n_seeds on each side, has an interval above 0 if this is the truth."""
    per_seed, freedom = 2 / n_seeds, 2 * (n_seeds - 1)
    least = found.one_group / n_groups**2
    groups = max((found.shared + per_seed * found.interaction) / n_groups, least)
    seeds, chance = per_seed * found.seeds, per_seed * found.interaction / n_groups
    rank = _ranks(ABLATIONS, 2)
    seen = groups * chi2.ppf(rank[0], n_groups - 1) / (n_groups - 1)
    seen_seeds = (seeds + chance) * chi2.ppf(rank[1], freedom) / freedom if freedom else np.zeros(ABLATIONS)
    errors = possible_errors(
        _even_draws(n_groups, freedom),
        groups=np.maximum(seen, least)[:, None],
        seeds=seen_seeds[:, None],
        chance=chance,
        freedom=freedom,
    )
    half = np.quantile(errors, 0.95, axis=1)
    return float(norm.cdf((difference - half) / np.sqrt(groups + seeds)).mean())


def _ranks(number: int, columns: int) -> Floats:
    """(columns, number): evenly spaced between 0 and 1, each column in an order of its own, always the same."""
    rng = np.random.default_rng(0)
    return np.array([rng.permutation((np.arange(number) + 0.5) / number) for _ in range(columns)])


@lru_cache(maxsize=256)
def _even_draws(n_groups: int, freedom: int) -> Draws:
    rank = _ranks(DRAWS, 3)
    squared = chi2.ppf(rank[2], freedom) if freedom else None
    return Draws(groups=t.ppf(rank[0], n_groups - 1), seeds=norm.ppf(rank[1]), seeds_squared=squared)


def groups_needed(found: Sources, difference: float, *, n_seeds: int) -> int | None:
    """The fewest groups with POWER; None where MOST_GROUPS do not have it."""
    return _fewest(lambda number: power(found, difference, n_groups=number, n_seeds=n_seeds), MOST_GROUPS)


def seeds_needed(found: Sources, difference: float, *, n_groups: int) -> int | None:
    """The fewest seeds on each side with POWER; None where MOST_SEEDS do not have it."""
    return _fewest(lambda number: power(found, difference, n_groups=n_groups, n_seeds=number), MOST_SEEDS)


def _fewest(power_of: Callable[[int], float], most: int) -> int | None:
    """Between 2 and `most`, to one part in fifty."""
    low, high = 2, most
    if power_of(high) < POWER:
        return None
    if power_of(low) >= POWER:
        return low
    while high - low > max(1, low // 50):
        middle = min(max(round((low * high) ** 0.5), low + 1), high - 1)
        low, high = (low, middle) if power_of(middle) >= POWER else (middle, high)
    return high


def note(difference: float, spread: Spread, *, n_seeds: int) -> str:
    """What it takes to see the difference (or PLANNED, where there is hardly any) with 80 % power, in words."""
    target = abs(difference) if abs(difference) >= SMALLEST_SHOWN else PLANNED
    found, n_groups = sources(spread), spread.n_groups
    seen = f"{100 * POWER:.0f} % power to see a difference of {100 * target:.1f} points"
    groups = groups_needed(found, target, n_seeds=max(n_seeds, 2) if spread.freedom else 1)
    if not spread.freedom:
        only = "One seed: this compares two trained models; what another seed would change is not in the interval."
        return f"{_parts(groups)} give {seen}; there are {n_groups}. {only}" if groups else only
    seeds = seeds_needed(found, target, n_groups=n_groups)
    there = f"there are {n_groups} parts and {n_seeds} seed{'s' * (n_seeds > 1)}."
    if groups and seeds:
        return f"{_parts(groups)}, or {seeds} seeds on each side, give {seen}; {there}"
    if groups:
        return f"{_parts(groups)} give {seen}, more seeds alone do not; {there}"
    if seeds:
        return f"About {seeds} seeds on each side give {seen}, more parts alone do not; {there}"
    both = seeds_needed(found, target, n_groups=MOST_GROUPS)
    if both:
        return f"Only more of both gives {seen}: about {both} seeds on each side, and more parts; {there}"
    return f"No number of parts and seeds that could be had gives {seen}; {there}"


def _parts(number: int | None) -> str:
    return f"About {number:,} parts" if number else ""
