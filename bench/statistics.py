"""Are the statistics right? Simulate ablations whose truth is known, and see what vlmbench says.

    python -m bench.statistics [--ablations 2000]

An answer is correct where a normal variable lies under a threshold. One share of the variable is
common to the records of a part, another share to all answers to a record. The rest belongs to the
single run. The threshold moves with the variant's effect and with the seed. So two truths are
known: the variants' difference over all records and seeds, and a trained model's accuracy over all
records.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from bench import record
from vlmbench.stats import Interval, estimate_rate, holm, interval, power, verdict
from vlmbench.stats.spread import measure_spread
from vlmbench.types import Estimate, Rate

SIZES = (100, 300, 1000, 2000)
RATES = (0.5, 0.75, 0.9, 0.98)
CLUSTERING = (0.0, 0.2, 0.5)
PER_PART = 4
PAIRED = 0.4  # of what the part leaves: a record's own difficulty, the same for all runs
SEED_SPREAD = 0.15  # of the threshold, in standard deviations of the variable
STEADY = 0.04  # the same, of seeds that hardly vary
DRAWS = 2_000
FAMILY = 10  # comparisons that Holm corrects together
MAX_GROWTH = 20  # larger plans, in multiples of the world's size, are not tried


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Where ablations of variants a and b come from.

    `n` records have `per_part` records a part. `rate` is the accuracy of b with an average seed.
    `clustering` is the share of the variable that records of a part have in common. `effect` moves
    the threshold of a.
    """

    n: int
    rate: float
    clustering: float
    seeds: int = 3
    effect: float = 0.0
    seed_spread: float = SEED_SPREAD
    per_part: int = PER_PART

    def parts(self) -> NDArray[np.intp]:
        """Return the number of each record's part."""
        return np.arange(self.n) // self.per_part

    def accuracy(self, effect: float) -> float:
        """Return the accuracy of a variant over all records and seeds."""
        return float(norm.cdf((norm.ppf(self.rate) + effect) / np.sqrt(1 + self.seed_spread**2)))

    @property
    def difference(self) -> float:
        """The true difference of a and b."""
        return self.accuracy(self.effect) - self.accuracy(0.0)

    def answers(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return 1 where a and b were correct, else 0: (seeds, n) each."""
        parts = self.parts()
        of_part = rng.standard_normal(int(parts.max()) + 1)[parts] * np.sqrt(self.clustering)
        record_share = (1 - self.clustering) * PAIRED
        shared = of_part + rng.standard_normal(self.n) * np.sqrt(record_share)

        run_share = 1 - self.clustering - record_share
        noise = rng.standard_normal((2, self.seeds, self.n)) * np.sqrt(run_share)
        of_seed = rng.standard_normal((2, self.seeds, 1)) * self.seed_spread
        threshold = norm.ppf(self.rate) + of_seed
        threshold[0] += self.effect

        correct = (shared + noise < threshold).astype(np.float64)
        return correct[0], correct[1]


def main() -> None:
    """Simulate, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ablations", type=int, default=2000, help="simulated for each row")
    parser.add_argument("--out", default="", help="end of the result file's name")
    arguments = parser.parse_args()

    figures = _simulate(arguments.ablations)
    for name, rows in figures.items():
        print(f"\n{name}\n{record.table(rows)}")
    name = record.result_name("statistics", arguments.out)
    print(record.write(name, {"ablations": arguments.ablations, **figures}))


def _simulate(times: int) -> dict[str, list[dict[str, Any]]]:
    one_seed = list(_worlds(seeds=1, seed_spread=0.0))
    with ProcessPoolExecutor() as pool:
        equal = list(pool.map(partial(false_verdicts, times=times), _worlds()))
        rates = list(pool.map(partial(rate_coverage, times=times), one_seed))
        unequal = list(pool.map(partial(coverage, times=times), _worlds(effect=0.2)))
        plans = list(pool.map(partial(power_notes, times=times), _planned_worlds()))

    return {
        "equal_variants": equal,
        "rates": rates,
        "unequal_variants": unequal,
        "power": plans,
        "family": family_error(World(n=400, rate=0.8, clustering=0.2), times=times),
    }


def _worlds(**settings: Any) -> Iterator[World]:
    for n, rate, clustering in itertools.product(SIZES, RATES, CLUSTERING):
        yield World(n=n, rate=rate, clustering=clustering, **settings)


def _planned_worlds() -> Iterator[World]:
    """Yield worlds with seeds that vary as in the other tables, then with steady seeds."""
    for seed_spread in (SEED_SPREAD, STEADY):
        for world in _worlds(effect=0.2, seed_spread=seed_spread):
            if world.n < SIZES[-1] and world.clustering in (CLUSTERING[0], CLUSTERING[-1]):
                yield world


def false_verdicts(world: World, times: int) -> dict[str, Any]:
    """Return how often one of two equal variants is called better or worse."""
    intervals = list(_comparisons(world, times))
    is_false = [verdict(comparison) in ("better", "worse") for comparison in intervals]
    return {
        **_facts(world),
        "false_verdicts": float(np.mean(is_false)),
        "coverage": _coverage(intervals, 0.0),
        "width": _width(intervals),
    }


def coverage(world: World, times: int) -> dict[str, Any]:
    """Return how often the interval of unequal variants holds their true difference."""
    intervals = list(_comparisons(world, times))
    return {
        **_facts(world),
        "difference": world.difference,
        "coverage": _coverage(intervals, world.difference),
        "width": _width(intervals),
    }


def rate_coverage(world: World, times: int) -> dict[str, Any]:
    """Return how often the interval of one model's accuracy holds its true accuracy."""
    rng = _seeded_rng(world)
    parts = tuple(map(str, world.parts()))
    intervals = []
    for _ in range(times):
        correct, _ = world.answers(rng)
        intervals.append(estimate_rate(Rate(hits=tuple(correct[0] > 0), parts=parts)))

    return {
        **_facts(world),
        "coverage": _coverage(intervals, world.rate),
        "width": _width(intervals),
    }


def power_notes(world: World, times: int) -> dict[str, Any]:
    """Return the median plan of single ablations, and the power of ablations of that plan.

    A plan is the number of parts, or of seeds, that see the true difference. A plan that does not
    exist counts as the largest. Seeds are whole, so their plan has 80 % power or more, and one seed
    less has at most 80 %.
    """
    rng = np.random.default_rng(world.n)
    plans = [_plan(world, rng) for _ in range(max(times // 10, 1))]
    parts, seeds = (sorted(column)[len(column) // 2] for column in zip(*plans, strict=True))

    facts = {
        **_facts(world),
        "seed_spread": world.seed_spread,
        "difference": world.difference,
        "plans": len(plans),
        "median_groups": _finite(parts),  # the key of the recorded results: the docs read it
        "power": None,
        "median_seeds": _finite(seeds),
        "power_of_seeds": None,
    }

    tried = max(times // 2, 1)
    if parts * world.per_part <= MAX_GROWTH * world.n:
        facts["power"] = _power(replace(world, n=int(parts) * world.per_part), tried)
    if seeds <= power.MAX_SEEDS:
        facts["power_of_seeds"] = _power(replace(world, seeds=int(seeds)), tried)
        fewer = replace(world, seeds=int(seeds) - 1)
        facts["power_of_one_seed_less"] = _power(fewer, tried) if seeds > 2 else None
    return facts


def family_error(world: World, times: int) -> list[dict[str, Any]]:
    """Return how often Holm lets any of FAMILY comparisons between equal variants pass."""
    num_wrong = 0
    comparisons = _comparisons(world, times * FAMILY)
    for _ in range(times):
        p_values = [next(comparisons).p_value for _ in range(FAMILY)]
        num_wrong += min(holm(p_values)) < 0.05
    return [{**_facts(world), "comparisons": FAMILY, "any_wrong": num_wrong / times}]


def _comparisons(world: World, times: int) -> Iterator[Interval]:
    """Yield the interval of each simulated ablation."""
    rng = _seeded_rng(world)
    for number in range(times):
        yield interval(*world.answers(rng), world.parts(), seed=number, draws=DRAWS)


def _seeded_rng(world: World) -> np.random.Generator:
    seed = [world.n, round(1000 * world.rate), round(1000 * world.clustering)]
    return np.random.default_rng(seed)


def _plan(world: World, rng: np.random.Generator) -> tuple[float, float]:
    """Return the parts and the seeds that one ablation asks for; infinite without a plan."""
    parts = world.parts()
    variances = power.sources(measure_spread(*world.answers(rng), parts))
    difference, n_parts = world.difference, int(parts.max()) + 1
    return (
        power.parts_needed(variances, difference, n_seeds=world.seeds) or np.inf,
        power.seeds_needed(variances, difference, n_parts=n_parts) or np.inf,
    )


def _power(world: World, times: int) -> float:
    return float(np.mean([comparison.low > 0 for comparison in _comparisons(world, times)]))


def _finite(number: float) -> int | None:
    return int(number) if np.isfinite(number) else None


def _facts(world: World) -> dict[str, Any]:
    return {"n": world.n, "rate": world.rate, "clustering": world.clustering}


def _coverage(intervals: Sequence[Interval | Estimate], truth: float) -> float:
    return float(np.mean([figure.low <= truth <= figure.high for figure in intervals]))


def _width(intervals: Sequence[Interval | Estimate]) -> float:
    return float(np.mean([figure.high - figure.low for figure in intervals]))


if __name__ == "__main__":
    main()
