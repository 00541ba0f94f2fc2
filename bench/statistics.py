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
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from bench import record
from vlmbench.stats import Comparison, compare_correct, estimate_rate, holm, verdict
from vlmbench.types import Rate

SIZES = (100, 300, 1000, 2000)
RATES = (0.5, 0.75, 0.9, 0.98)
CLUSTERING = (0.0, 0.2, 0.5)
PER_GROUP = 4
PAIRED = 0.4  # of what the group leaves: a record's own difficulty, the same for all runs
SEED_SPREAD = 0.15  # of the threshold, in standard deviations of the variable
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
        power = list(pool.map(partial(power_notes, times=arguments.ablations), _worlds(effect=0.2)))
    family = family_error(World(n=400, rate=0.8, clustering=0.2), times=arguments.ablations)
    figures = {"equal_variants": equal, "rates": rates, "unequal_variants": unequal, "power": power, "family": family}
    for name, rows in figures.items():
        print(f"\n{name}\n{record.table(rows)}")
    print(record.write(record.name("statistics", arguments.out), {"ablations": arguments.ablations, **figures}))


def _worlds(**more: Any) -> Iterator[World]:
    for n, rate, clustering in itertools.product(SIZES, RATES, CLUSTERING):
        yield World(n=n, rate=rate, clustering=clustering, **more)


def _comparisons(world: World, times: int) -> Iterator[Comparison]:
    rng = np.random.default_rng([world.n, round(1000 * world.rate), round(1000 * world.clustering)])
    for number in range(times):
        yield compare_correct(*world.answers(rng), world.groups(), seed=number, draws=DRAWS)


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
    """Plans from one ablation each how many groups see the true difference, and tries ablations of the median plan."""
    notes = []
    for one in itertools.islice(_comparisons(world, times), 200):
        planned = re.match(r"About (\d+) parts", one.power_note)
        notes.append(int(planned[1]) if planned and abs(one.difference - world.difference) < 0.01 else None)
    plans = [note for note in notes if note is not None]
    row = {**_facts(world), "plans": len(plans), "median_plan": None, "power": None}
    if not plans:
        return row
    median = int(np.median(plans))
    if median > 2000:
        return row | {"median_plan": median}
    larger = World(
        n=median * world.per_group, rate=world.rate, clustering=world.clustering, seeds=world.seeds, effect=world.effect
    )
    seen = np.mean([one.low > 0 for one in _comparisons(larger, max(times // 4, 1))])
    return row | {"median_plan": median, "power": float(seen)}


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
