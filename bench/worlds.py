"""Imagined ablations whose truth is known, for bench.statistics.

An answer is right where a normal variable lies under a threshold. Shares of its variance belong to
the part (for both arms alike), to the part and the arm together, to the record, and to the single
run. The threshold moves with the arm's effect and with the seed. So the variants' true difference
over all parts, records and seeds is known, and so is that of equal variants: none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from vlmbench.stats import Compared, Costs, Folded
from vlmbench.stats.compare import Clusters, Pair, paired

Floats = NDArray[np.float64]
COSTS = Costs(miss=10.0, overkill=1.0, prevalence=0.05)
RECORD = 0.4  # of what parts leave: a record's own difficulty, the same for all runs


@dataclass(frozen=True, kw_only=True)
class World:
    """Where ablations of variants a and b come from.

    `sizes` are the records of each part. `rate` is the accuracy of b with an average seed. Records
    of a part have the share `shared` of the variance in common on both arms. They have `own` in
    common on one arm alone: this makes paired differences of a part alike. `seeds` and `spreads`
    are the numbers of seeds of a and b, and how much their thresholds vary. `effect` moves the
    threshold of a. `positive` is the share of positive records.
    """

    name: str
    sizes: tuple[int, ...]
    rate: float = 0.8
    shared: float = 0.2
    own: float = 0.0
    seeds: tuple[int, int] = (3, 3)
    spreads: tuple[float, float] = (0.05, 0.05)
    effect: float = 0.0
    positive: float = 0.5
    figure: Compared = Compared.ACCURACY

    @cached_property
    def clusters(self) -> NDArray[np.intp]:
        """Return the number of each record's part."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def n(self) -> int:
        return len(self.clusters)

    @property
    def effective(self) -> float:
        """Return the number of equally large parts that tell as much (Kish)."""
        sizes = np.array(self.sizes, dtype=np.float64)
        return float(sizes.sum() ** 2 / (sizes**2).sum())

    def facts(self) -> dict[str, Any]:
        """Return the columns of a table that name the world."""
        return {
            "world": self.name,
            "figure": str(self.figure),
            "parts": len(self.sizes),
            "effective": round(self.effective, 1),
            "n": self.n,
            "rate": self.rate,
            "own": self.own,
            "seeds": f"{self.seeds[0]}+{self.seeds[1]}",
            "spreads": f"{self.spreads[0]}, {self.spreads[1]}",
        }

    def rng(self, salt: int = 0) -> np.random.Generator:
        """Return random numbers of this world."""
        words = repr((self.name, self.sizes, self.rate, self.shared, self.own, self.seeds))
        return np.random.default_rng([salt, *words.encode()])

    def draw(self, rng: np.random.Generator) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Return how right each answer of a and b is, (seeds, n), and the labels (n).

        An answer is right where the number is above 0.
        """
        part = rng.standard_normal(len(self.sizes))[self.clusters] * np.sqrt(self.shared)
        left = 1 - self.shared - self.own
        record = part + rng.standard_normal(self.n) * np.sqrt(RECORD * left)
        positive = rng.random(self.n) < self.positive

        arms = []
        for number, spread, effect in zip(
            self.seeds, self.spreads, (self.effect, 0.0), strict=True
        ):
            own = rng.standard_normal(len(self.sizes))[self.clusters] * np.sqrt(self.own)
            run = rng.standard_normal((number, self.n)) * np.sqrt((1 - RECORD) * left)
            seed = rng.standard_normal((number, 1)) * spread
            arms.append(norm.ppf(self.rate) + effect + seed + record + own + run)
        return arms[0], arms[1], positive

    def outcomes(self, rng: np.random.Generator) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Return what `vlmbench.stats.compare` takes: right or wrong, or scores for AUROC."""
        a, b, positive = self.draw(rng)
        a, b = self.answers(a, positive), self.answers(b, positive)
        return a, b, positive

    def answers(self, right: Floats, positive: NDArray[np.bool_]) -> Floats:
        """Return what `vlmbench.stats.compare` takes, from how right each answer is."""
        if self.figure is Compared.AUROC:
            return (2.0 * positive - 1) * right
        return (right > 0).astype(np.float64)

    def pair(self, rng: np.random.Generator) -> Pair | None:
        """Return the comparison of one ablation; None where it lacks a label."""
        a, b, positive = self.draw(rng)
        if positive.all() or not positive.any():
            return None
        return self.compare(a, b, positive, self.clusters)

    def compare(
        self, a: Floats, b: Floats, positive: NDArray[np.bool_], clusters: Clusters
    ) -> Pair:
        """Return the comparison of a and b, given how right each answer is."""
        return paired(
            self.answers(a, positive),
            self.answers(b, positive),
            clusters=clusters,
            figure=self.figure,
            positive=positive,
            costs=COSTS if self.figure is Compared.COST else None,
        )


@dataclass(frozen=True, kw_only=True)
class FoldWorld(World):
    """A world of cross-validations: each part is tested once, in one of `folds` folds.

    The runs of one arm and fold share a training set, which moves their threshold by `tau`. Each
    run has a seed's effect of its own; with `same_seeds`, a seed has one effect in all folds.
    """

    folds: int = 5
    tau: float = 0.0
    same_seeds: bool = False

    def facts(self) -> dict[str, Any]:
        """Return the columns of a table that name the world."""
        return super().facts() | {"tau": self.tau, "same_seeds": self.same_seeds}

    def rng(self, salt: int = 0) -> np.random.Generator:
        """Return random numbers of this world."""
        words = repr((self.name, str(self.figure), self.seeds, self.tau, self.same_seeds))
        return np.random.default_rng([salt, *words.encode()])

    def pair(self, rng: np.random.Generator) -> Pair | None:
        """Return the comparison of one cross-validation; None where a fold lacks a label."""
        folds = self.draw_folds(rng)
        still = replace(self, spreads=(0.0, 0.0))
        a, b, positive = World.draw(still, rng)
        for arm, spread in zip((a, b), self.spreads, strict=True):
            arm += self._effects(rng, len(arm), spread)[:, folds]

        labels = {(fold, label) for fold, label in zip(folds, positive, strict=True)}
        if len(labels) < 2 * self.folds:
            return None
        return self.compare(a, b, positive, Folded(clusters=self.clusters, folds=folds))

    def draw_folds(self, rng: np.random.Generator) -> NDArray[np.intp]:
        """Return the fold of each record: parts in random order fill the folds one by one."""
        order = rng.permutation(len(self.sizes))
        sizes = np.array(self.sizes)[order]
        fold_of = np.empty(len(sizes), dtype=np.intp)
        fold_of[order] = (np.cumsum(sizes) - sizes / 2) / sizes.sum() * self.folds
        return fold_of[self.clusters]

    def _effects(self, rng: np.random.Generator, number: int, spread: float) -> Floats:
        """Return the effects of training sets and seeds, (seeds, folds)."""
        seeds = rng.standard_normal((number, 1 if self.same_seeds else self.folds))
        effects: Floats = rng.standard_normal(self.folds) * self.tau + seeds * spread
        return effects


def equal_parts(number: int, size: int) -> tuple[int, ...]:
    """Return the sizes of `number` equal parts."""
    return (size,) * number


def one_large(share: float, others: int, size: int) -> tuple[int, ...]:
    """Return one part that holds `share` of all records beside equal ones."""
    return (round(share / (1 - share) * others * size), *equal_parts(others, size))


SHAPES: dict[str, tuple[int, ...]] = {
    "5 x 20": equal_parts(5, 20),
    "10 x 15": equal_parts(10, 15),
    "12 x 4": equal_parts(12, 4),
    "28 x 4": equal_parts(28, 4),
    "100 x 2": equal_parts(100, 2),
    "500 x 2": equal_parts(500, 2),
    "100 + 40 x 2": (100, *equal_parts(40, 2)),
    "2 x 60 + 20 x 4": (60, 60, *equal_parts(20, 4)),
    "one in three": one_large(1 / 3, 60, 2),
    "one in four": one_large(0.25, 60, 2),
    "one in seven": one_large(1 / 7, 60, 2),
    "3 in seven": (15, 15, 15, *equal_parts(60, 1)),
    "falling": tuple(int(40 * 0.9**k) + 1 for k in range(40)),
}
SEEDS: tuple[tuple[tuple[int, int], tuple[float, float]], ...] = (
    ((3, 3), (0.05, 0.05)),
    ((3, 3), (0.15, 0.02)),
    ((3, 3), (0.15, 0.15)),
    ((2, 8), (0.15, 0.02)),
    ((3, 10), (0.15, 0.05)),
    ((5, 5), (0.1, 0.1)),
    ((10, 10), (0.1, 0.02)),
)
OWN = (0.0, 0.1, 0.25, 0.5)


def worlds() -> list[World]:
    """Return every recorded world of equal variants."""
    found = []
    for name, sizes in SHAPES.items():
        for own in OWN:
            found.append(World(name=name, sizes=sizes, own=own))
        for seeds, spreads in SEEDS[1:]:
            found.append(World(name=name, sizes=sizes, own=0.1, seeds=seeds, spreads=spreads))
        for rate in (0.6, 0.95):
            found.append(World(name=name, sizes=sizes, own=0.1, rate=rate))
        for figure in Compared:
            if figure is not Compared.ACCURACY:
                found.append(World(name=name, sizes=sizes, own=0.1, figure=figure))
        found.append(
            World(
                name=name,
                sizes=sizes,
                own=0.1,
                rate=0.9,
                positive=0.1,
                figure=Compared.BALANCED_ACCURACY,
            )
        )
    return found


FOLD_SHAPES: dict[str, tuple[int, ...]] = {
    "10 x 4": equal_parts(10, 4),
    "10 x 12": equal_parts(10, 12),
    "20 x 4": equal_parts(20, 4),
    "60 x 2": equal_parts(60, 2),
    "6 x 12 + 30 x 3": (*equal_parts(6, 12), *equal_parts(30, 3)),
    "falling": tuple(int(16 * 0.92**k) + 1 for k in range(30)),
}


def fold_worlds() -> list[FoldWorld]:
    """Return every recorded world of cross-validations of equal variants."""
    found = []
    for name, sizes in FOLD_SHAPES.items():
        one = FoldWorld(name=name, sizes=sizes, own=0.1, spreads=(0.15, 0.15))
        found += [replace(one, tau=tau) for tau in (0.0, 0.25, 0.5, 1.0)]
        found += [replace(one, tau=0.5, seeds=(seeds, seeds)) for seeds in (1, 2)]
        found.append(replace(one, tau=0.25, rate=0.95))
        alike = replace(one, spreads=(0.3, 0.3), same_seeds=True)
        found += [replace(alike, tau=tau) for tau in (0.0, 0.5)]
        if len(sizes) > 10:  # of ten parts with labels, fewer than ten have each label
            others = (figure for figure in Compared if figure.needs_labels)
            found += [replace(one, tau=0.5, figure=figure) for figure in others]
    return found
