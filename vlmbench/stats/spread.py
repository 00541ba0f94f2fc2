"""How far an observed difference may be from the true one: by the choice of parts and of seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmbench.stats.clusters import Floats, mean_part_size, sum_of_squares


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Variances of the difference between two variants, as one ablation shows them.

    `parts` comes from the parts (cluster sandwich). `one_part` is the same if one part had changed.
    `seeds` comes from the seeds, pooled over both variants; 0 where each has one. `chance` is the
    share of `seeds` that seeds of equal quality would show on so many parts.

    `freedom` is the degrees of freedom of `seeds`. `inverse_seeds` is 1 / seeds of a + 1 / seeds
    of b.
    """

    parts: float
    one_part: float
    seeds: float
    chance: float
    n_parts: int
    freedom: int
    inverse_seeds: float


def measure_spread(correct_a: Floats, correct_b: Floats, parts: NDArray[np.intp]) -> Spread:
    """Return the spread of the difference.

    `correct_a` and `correct_b` are 1 where a variant was right, else 0: (seeds, n). `parts` numbers
    two parts or more: (n).
    """
    n, n_parts = len(parts), int(parts.max()) + 1
    residuals = correct_a.mean(axis=0) - correct_b.mean(axis=0)
    freedom = len(correct_a) + len(correct_b) - 2

    seeds = chance = 0.0
    for correct in (correct_a, correct_b):
        means = correct.mean(axis=1, keepdims=True)
        seeds += float(((means - correct.mean()) ** 2).sum())
        interaction = correct - means - correct.mean(axis=0) + correct.mean()
        chance += sum(sum_of_squares(row, parts) for row in interaction) / n**2

    inverse_seeds = 1 / len(correct_a) + 1 / len(correct_b)
    return Spread(
        parts=sum_of_squares(residuals - residuals.mean(), parts) / n**2,
        one_part=mean_part_size(parts) / n**2,
        seeds=seeds * inverse_seeds / max(freedom, 1),
        chance=chance * inverse_seeds / max(freedom, 1),
        n_parts=n_parts,
        freedom=freedom,
        inverse_seeds=inverse_seeds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Random numbers that make up errors, all of one length.

    `parts` are t, `seeds` normal and `seeds_squared` chi-square; None where each variant has one
    seed.
    """

    parts: Floats
    seeds: Floats
    seeds_squared: Floats | None


def random_draws(spread: Spread, rng: np.random.Generator, number: int) -> Draws:
    """Return `number` draws."""
    parts = rng.standard_t(spread.n_parts - 1, number)
    squared = rng.chisquare(spread.freedom, number) if spread.freedom else None
    return Draws(parts=parts, seeds=rng.standard_normal(number), seeds_squared=squared)


def possible_errors(
    draws: Draws, *, parts: Floats | float, seeds: Floats | float, chance: float, freedom: int
) -> Floats:
    """Return possible values of |estimate - truth|.

    An error is a t for the parts plus a normal for the seeds, whose variance is itself drawn. The
    seeds' true variance is distributed as observed * freedom / chi-square(freedom), less chance,
    which the parts' variance already holds.

    `parts` and `seeds` are variances; of shape (m, 1) they give errors of shape (m, number).
    """
    errors = draws.parts * np.sqrt(parts)
    if draws.seeds_squared is not None:
        variance = seeds * freedom / draws.seeds_squared - chance
        errors = errors + draws.seeds * np.sqrt(np.maximum(variance, 0.0))

    return np.abs(errors)
