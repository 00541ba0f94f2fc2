"""How many parts or seeds it takes to see a difference, from the spread of one ablation.

A plan is median-unbiased: half of all possible ablations would have asked for more, half for less.
Three seeds say little about the variance of seeds, so single plans differ by factors. The notes
therefore say "about".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, norm

from vlmbench.stats.clusters import Floats
from vlmbench.stats.figures import Compared
from vlmbench.stats.spread import Spread, Variance, half_widths

POWER = 0.8
# An observed difference below the first is taken as none; the plan is then for the second.
MIN_DIFFERENCE, PLANNED_DIFFERENCE = 0.01, 0.05
# Larger plans are not given.
MAX_PARTS, MAX_SEEDS = 100_000, 100
# Ablations imagined for one figure of power.
ABLATIONS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Variances of the difference for one part and one seed.

    `shared` is the variance of a part that all seeds show. `interaction` is that of a part and a
    seed together. `seeds` is that of a seed. `one_record` is the least variance that is assumed for
    a part, times the number of parts. `arms` is the number of arms that have seeds, 1 or 2.
    """

    shared: float
    interaction: float
    seeds: float
    one_record: float
    arms: int


def sources(spread: Spread, *, arms: int = 2) -> Sources:
    """Return the variances by source.

    The variance of seeds is pooled over the arms and median-unbiased. `shared` may be below 0; cut
    off at 0, its median would be too large.
    """
    number = spread.num_clusters
    freedom = sum(arm.freedom for arm in spread.seeds)
    interaction = seeds = 0.0
    if freedom:
        interaction = sum(_per_seed(arm, arm.chance) for arm in spread.seeds) / freedom
        observed = sum(_per_seed(arm, arm.value) for arm in spread.seeds)
        seeds = max(observed / float(chi2.median(freedom)) - interaction, 0.0)

    # More parts come with more validation parts.
    thresholds = sum(one.value for one in spread.thresholds)
    share = sum(interaction / (arm.freedom + 1) for arm in spread.seeds)
    return Sources(
        shared=(spread.clusters.value + thresholds - share) * number,
        interaction=interaction * number,
        seeds=seeds,
        one_record=spread.one_record * number**2,
        arms=arms,
    )


def _per_seed(arm: Variance, variance: float) -> float:
    """Return the variance of one seed's figure, times the degrees of freedom."""
    return variance * (arm.freedom + 1) * arm.freedom


def power(variances: Sources, difference: float, *, n_parts: int, n_seeds: int) -> float:
    """Return how often an ablation of this size has an interval without 0.

    `difference` is the true difference. `n_seeds` is the number of seeds of each arm.
    """
    arms = variances.arms if n_seeds > 1 else 0
    least = variances.one_record / n_parts**2
    chance = variances.interaction / n_parts / n_seeds
    parts = max(variances.shared / n_parts + variances.arms * chance, least)
    seeds = variances.seeds / n_seeds

    rank = _ranks(ABLATIONS, 3)
    seen = [np.maximum(parts * chi2.ppf(rank[0], n_parts - 1) / (n_parts - 1), least)]
    for arm in range(arms):
        seen.append((seeds + chance) * chi2.ppf(rank[1 + arm], n_seeds - 1) / (n_seeds - 1))

    freedoms = np.array([n_parts - 1] + [n_seeds - 1] * arms, dtype=np.float64)
    chances = np.array([0.0] + [chance] * arms)
    widths = half_widths(np.array(seen), freedoms[:, None], chances[:, None])
    error = np.sqrt(parts + variances.arms * seeds)
    return float(norm.cdf((abs(difference) - widths) / error).mean())


def _ranks(number: int, columns: int) -> Floats:
    """Return evenly spaced ranks between 0 and 1, (columns, number), the same at every call.

    Each column has an order of its own.
    """
    rng = np.random.default_rng(0)
    return np.array([rng.permutation((np.arange(number) + 0.5) / number) for _ in range(columns)])


def parts_needed(variances: Sources, difference: float, *, n_seeds: int) -> int | None:
    """Return the fewest parts with POWER; None where MAX_PARTS do not have it."""

    def power_of(number: int) -> float:
        return power(variances, difference, n_parts=number, n_seeds=n_seeds)

    return _fewest(power_of, MAX_PARTS)


def seeds_needed(variances: Sources, difference: float, *, n_parts: int) -> int | None:
    """Return the fewest seeds of each variant with POWER; None where MAX_SEEDS do not have it."""

    def power_of(number: int) -> float:
        return power(variances, difference, n_parts=n_parts, n_seeds=number)

    return _fewest(power_of, MAX_SEEDS)


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


def power_note(
    figure: Compared, difference: float, spread: Spread, *, seeds: tuple[int, int]
) -> str:
    """Return in words what it takes to see the difference with 80 % power.

    A difference below MIN_DIFFERENCE is replaced by PLANNED_DIFFERENCE. `seeds` are the numbers of
    seeds of both arms, 0 for an arm without seeds.
    """
    if spread.num_clusters < 2:
        return "One part says nothing about other parts; at least two are needed."
    if not np.isfinite(spread.clusters.value):
        return "All records of one label belong to one part; add parts with this label."

    target = abs(difference) if abs(difference) >= MIN_DIFFERENCE else PLANNED_DIFFERENCE
    arms = sum(number > 0 for number in seeds)
    variances, n_parts = sources(spread, arms=arms), spread.num_clusters
    unit = "points of both errors" if figure is Compared.COST else "points"
    aim = f"{100 * POWER:.0f} % power to see a difference of {100 * target:.1f} {unit}"

    n_seeds = min((number for number in seeds if number), default=1)
    if not spread.seeds:
        parts = parts_needed(variances, target, n_seeds=1)
        only = (
            "One seed: this compares two trained models; what another seed would change is not in "
            "the interval."
        )
        return f"{_about_parts(parts)} give {aim}; there are {n_parts}. {only}" if parts else only

    return _plan(variances, target, aim, n_parts=n_parts, n_seeds=n_seeds)


def _plan(variances: Sources, target: float, aim: str, *, n_parts: int, n_seeds: int) -> str:
    """Return the sentence on the parts, or the seeds, that reach `aim`."""
    parts = parts_needed(variances, target, n_seeds=max(n_seeds, 2))
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
