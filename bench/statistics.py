"""Are the statistics right? Ablations of known truth, simulated, and what vlmbench says of them.

    python -m bench.statistics [--ablations 2000]

A record is answered rightly where a normal variable lies under a threshold. The variable is shared in part by the
records of a group (a part), in part by a record's answers in all runs, and is the run's own in the rest; the threshold
moves with the variant's effect and with the seed. What is known of the truth: the variants' difference over all records
and seeds, and a trained model's accuracy over all records.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from bench import record
from vlmbench.stats import Interval, estimate_rate, holm, interval, power, verdict
from vlmbench.stats.spread import measure
from vlmbench.types import Rate

SIZES = (100, 300, 1000, 2000)
RATES = (0.5, 0.75, 0.9, 0.98)
CLUSTERING = (0.0, 0.2, 0.5)
PER_GROUP = 4
PAIRED = 0.4  # of what the group leaves: a record's own difficulty, the same for all runs
SEED_SPREAD = 0.15  # of the threshold, in standard deviations of the variable
STEADY = 0.04  # the same of seeds that hardly vary
DRAWS = 2_000
FAMILY = 10  # comparisons that Holm corrects together


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Where ablations come from. `rate` is that of b with an average seed; `effect` moves a's threshold."""

    n: int
    rate: float
    clustering: float
    seeds: int = 3
    effect: float = 0.0
    seed_spread: float = SEED_SPREAD
    per_group: int = PER_GROUP

    def groups(self) -> NDArray[np.intp]:
        return np.arange(self.n) // self.per_group

    def accuracy(self, effect: float) -> float:
        """Of a variant, over all records and seeds."""
        return float(norm.cdf((norm.ppf(self.rate) + effect) / np.sqrt(1 + self.seed_spread**2)))

    @property
    def difference(self) -> float:
        return self.accuracy(self.effect) - self.accuracy(0.0)

    def answers(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Whether a and b were right: (seeds, n) each."""
        groups = self.groups()
        group = rng.standard_normal(int(groups.max()) + 1)[groups] * np.sqrt(self.clustering)
        own = (1 - self.clustering) * PAIRED
        shared = group + rng.standard_normal(self.n) * np.sqrt(own)
        noise = rng.standard_normal((2, self.seeds, self.n)) * np.sqrt(1 - self.clustering - own)
        moved = norm.ppf(self.rate) + rng.standard_normal((2, self.seeds, 1)) * self.seed_spread
        moved[0] += self.effect
        right = (shared + noise < moved).astype(np.float64)
        return right[0], right[1]


def main() -> None:
    """Simulate, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ablations", type=int, default=2000, help="simulated for each row")
    parser.add_argument("--out", default="", help="the end of the result file's name")
    arguments = parser.parse_args()
    with ProcessPoolExecutor() as pool:
        equal = list(pool.map(partial(false_verdicts, times=arguments.ablations), _worlds()))
        rates = list(pool.map(partial(rate_coverage, times=arguments.ablations), _worlds(seeds=1, seed_spread=0.0)))
        unequal = list(pool.map(partial(coverage, times=arguments.ablations), _worlds(effect=0.2)))
        power_rows = list(pool.map(partial(power_notes, times=arguments.ablations), _planned_worlds()))
    family = family_error(World(n=400, rate=0.8, clustering=0.2), times=arguments.ablations)
    figures = {
        "equal_variants": equal,
        "rates": rates,
        "unequal_variants": unequal,
        "power": power_rows,
        "family": family,
    }
    for name, rows in figures.items():
        print(f"\n{name}\n{record.table(rows)}")
    print(record.write(record.name("statistics", arguments.out), {"ablations": arguments.ablations, **figures}))


def _worlds(**more: Any) -> Iterator[World]:
    for n, rate, clustering in itertools.product(SIZES, RATES, CLUSTERING):
        yield World(n=n, rate=rate, clustering=clustering, **more)


def _planned_worlds() -> Iterator[World]:
    """With seeds that vary as in the other tables, and with steady ones."""
    for seed_spread in (SEED_SPREAD, STEADY):
        for world in _worlds(effect=0.2, seed_spread=seed_spread):
            if world.n < SIZES[-1] and world.clustering in (CLUSTERING[0], CLUSTERING[-1]):
                yield world


def _comparisons(world: World, times: int) -> Iterator[Interval]:
    rng = np.random.default_rng([world.n, round(1000 * world.rate), round(1000 * world.clustering)])
    for number in range(times):
        yield interval(*world.answers(rng), world.groups(), seed=number, draws=DRAWS)


def false_verdicts(world: World, times: int) -> dict[str, Any]:
    """Of equal variants: how often one is called better or worse, and how often the interval holds the truth."""
    found = list(_comparisons(world, times))
    false = np.mean([verdict(one) in ("better", "worse") for one in found])
    return {**_facts(world), "false_verdicts": float(false), "coverage": _covers(found, 0.0), "width": _width(found)}


def coverage(world: World, times: int) -> dict[str, Any]:
    """Of unequal variants."""
    found = list(_comparisons(world, times))
    truth = world.difference
    return {**_facts(world), "difference": truth, "coverage": _covers(found, truth), "width": _width(found)}


def rate_coverage(world: World, times: int) -> dict[str, Any]:
    """Of one model's accuracy."""
    rng = np.random.default_rng([world.n, round(1000 * world.rate), round(1000 * world.clustering)])
    names = tuple(map(str, world.groups()))
    found = []
    for _ in range(times):
        right, _ = world.answers(rng)
        found.append(estimate_rate(Rate(hits=tuple(right[0] > 0), groups=names)))
    return {**_facts(world), "coverage": _covers(found, world.rate), "width": _width(found)}


def power_notes(world: World, times: int) -> dict[str, Any]:
    """Plans from one ablation each how many groups, or how many seeds, see the true difference; then tries ablations of
    the median plan. A plan that does not exist is the largest of all. Seeds come whole, so theirs has at least 80 %,
    and one seed less has at most that."""
    rng = np.random.default_rng(world.n)
    plans = [_plan(world, rng) for _ in range(max(times // 10, 1))]
    groups, seeds = (sorted(column)[len(column) // 2] for column in zip(*plans, strict=True))
    facts = {**_facts(world), "seed_spread": world.seed_spread, "difference": world.difference, "plans": len(plans)}
    facts |= {"median_groups": _finite(groups), "power": None, "median_seeds": _finite(seeds), "power_of_seeds": None}
    tried = max(times // 2, 1)
    if groups * world.per_group <= 20 * world.n:
        facts["power"] = _power(replace(world, n=int(groups) * world.per_group), tried)
    if seeds <= power.MOST_SEEDS:
        facts["power_of_seeds"] = _power(replace(world, seeds=int(seeds)), tried)
        facts["power_of_one_seed_less"] = _power(replace(world, seeds=int(seeds) - 1), tried) if seeds > 2 else None
    return facts


def _finite(number: float) -> int | None:
    return int(number) if np.isfinite(number) else None


def _plan(world: World, rng: np.random.Generator) -> tuple[float, float]:
    groups = world.groups()
    found = power.sources(measure(*world.answers(rng), groups))
    n_groups = int(groups.max()) + 1
    return (
        power.groups_needed(found, world.difference, n_seeds=world.seeds) or np.inf,
        power.seeds_needed(found, world.difference, n_groups=n_groups) or np.inf,
    )


def _power(world: World, times: int) -> float:
    return float(np.mean([one.low > 0 for one in _comparisons(world, times)]))


def family_error(world: World, times: int) -> list[dict[str, Any]]:
    """Of FAMILY comparisons between equal variants, how often Holm lets any pass."""
    wrong = 0
    comparisons = _comparisons(world, times * FAMILY)
    for _ in range(times):
        wrong += min(holm([next(comparisons).p_value for _ in range(FAMILY)])) < 0.05
    return [{**_facts(world), "comparisons": FAMILY, "any_wrong": wrong / times}]


def _facts(world: World) -> dict[str, Any]:
    return {"n": world.n, "rate": world.rate, "clustering": world.clustering}


def _covers(found: list[Any], truth: float) -> float:
    return float(np.mean([one.low <= truth <= one.high for one in found]))


def _width(found: list[Any]) -> float:
    return float(np.mean([one.high - one.low for one in found]))


if __name__ == "__main__":
    main()
