"""How far the difference between two sides may be from the truth: by which groups were held out, by which seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmbench.stats.clusters import Floats, mean_group_size, sum_of_squares


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Variances of the difference between two sides, as one ablation shows them.

    `groups`: from the groups (cluster sandwich). `one_group`: the same if one group had changed. `seeds`: from the
    seeds, pooled over both sides; 0 where each has one. `chance`: the part of `seeds` that seeds of equal quality would
    show on so many groups. `freedom`: degrees of freedom of `seeds`. `inverse_seeds`: 1 / seeds of a + 1 / seeds of b.
    """

    groups: float
    one_group: float
    seeds: float
    chance: float
    n_groups: int
    freedom: int
    inverse_seeds: float


def measure(correct_a: Floats, correct_b: Floats, groups: NDArray[np.intp]) -> Spread:
    """From whether each side was right, (seeds, n) of 0 and 1, and the numbers of two groups or more, (n)."""
    n, n_groups = len(groups), int(groups.max()) + 1
    residuals = correct_a.mean(axis=0) - correct_b.mean(axis=0)
    freedom = len(correct_a) + len(correct_b) - 2
    seeds = chance = 0.0
    for side in (correct_a, correct_b):
        means = side.mean(axis=1, keepdims=True)
        seeds += float(((means - side.mean()) ** 2).sum())
        interaction = side - means - side.mean(axis=0) + side.mean()
        chance += sum(sum_of_squares(row, groups) for row in interaction) / n**2
    inverse_seeds = 1 / len(correct_a) + 1 / len(correct_b)
    return Spread(
        groups=sum_of_squares(residuals - residuals.mean(), groups) / n**2,
        one_group=mean_group_size(groups) / n**2,
        seeds=seeds * inverse_seeds / max(freedom, 1),
        chance=chance * inverse_seeds / max(freedom, 1),
        n_groups=n_groups,
        freedom=freedom,
        inverse_seeds=inverse_seeds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Of what the error is made of: t of the groups, a normal and a chi-square of the seeds (None: each side has one),
    all of one length."""

    groups: Floats
    seeds: Floats
    seeds_squared: Floats | None


def random_draws(spread: Spread, rng: np.random.Generator, number: int) -> Draws:
    """As many as `number`."""
    groups = rng.standard_t(spread.n_groups - 1, number)
    squared = rng.chisquare(spread.freedom, number) if spread.freedom else None
    return Draws(groups=groups, seeds=rng.standard_normal(number), seeds_squared=squared)


def possible_errors(
    draws: Draws, *, groups: Floats | float, seeds: Floats | float, chance: float, freedom: int
) -> Floats:
    """What |estimate - truth| may be: t for the groups, plus a normal for the seeds whose variance is itself drawn.

    The seeds' true variance has the distribution of observed * freedom / chi-square(freedom), less what chance gives,
    which the groups' part holds already. Variances of shape (m, 1) give errors of shape (m, number).
    """
    errors = draws.groups * np.sqrt(groups)
    if draws.seeds_squared is not None:
        variance = seeds * freedom / draws.seeds_squared - chance
        errors = errors + draws.seeds * np.sqrt(np.maximum(variance, 0.0))
    return np.abs(errors)
