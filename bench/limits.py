"""How near to 95 % can an interval get where there are few misses, and why is it not narrower?

    python -m bench.limits [--ablations 4000]

`steady_seeds`: three seeds a variant say little about how seeds vary. Take any rule whose interval
covers 94 % where seeds vary, and is never narrower than records alone make it. The table has the
least that this interval must cover where seeds do not vary at all.

`rare_parts`: only one variant is correct on a few whole parts, so few that an ablation may hold
none. The interval takes all of the least variance that vlmbench assumes for a part, or a third.

`rates`: one model's accuracy, with parts of other sizes and other likeness than bench.statistics.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import chi2, norm

from bench import record
from bench.statistics import DRAWS, World, rate_coverage
from vlmbench.stats.spread import measure_spread, possible_errors, random_draws

LEAST_COVERAGE = 0.94
SEEDS = 3
RATIOS = (1.25, 1.5, 2.0, 3.0)  # of the seeds' variance, chance included, to chance alone
RARE = ((100, 0.04), (100, 0.08), (300, 0.02), (300, 0.04))  # records, share of the parts
NUM_VARIANCES = 20_000  # variances of seeds over which a mean is taken


def main() -> None:
    """Compute, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ablations", type=int, default=4000, help="simulated for each row")
    parser.add_argument("--out", default="", help="end of the result file's name")
    arguments = parser.parse_args()
    times = arguments.ablations

    figures = {
        "steady_seeds": [
            {"ratio": ratio, "least_coverage": least_coverage(ratio)} for ratio in RATIOS
        ],
        "rare_parts": [rare_parts(n, share, times=times) for n, share in RARE],
        "rates": [
            {"per_part": world.per_part, **rate_coverage(world, times=times)} for world in _worlds()
        ],
    }
    for name, rows in figures.items():
        print(f"\n{name}\n{record.table(rows)}")
    name = record.result_name("limits", arguments.out)
    print(record.write(name, {"ablations": times, **figures}))


def _worlds() -> list[World]:
    worlds = [
        World(n=n, rate=rate, clustering=0.8, seeds=1, seed_spread=0.0)
        for n in (100, 300)
        for rate in (0.9, 0.98)
    ]
    other_sizes = [
        replace(world, clustering=0.2, per_part=size) for world in worlds for size in (2, 10)
    ]
    return worlds + other_sizes


def least_coverage(ratio: float) -> float:
    """Return the least coverage of an interval where seeds do not vary.

    The interval covers LEAST_COVERAGE where the variance of seeds is `ratio` times chance. There
    are so many parts that the variance of chance, 1, is known. An interval is then a width for each
    observed variance of seeds. By Lagrange's duality, no width from 1.96 on covers less than any
    multiplier gives.
    """
    freedom = 2 * (SEEDS - 1)
    quantiles = (np.arange(NUM_VARIANCES) + 0.5) / NUM_VARIANCES
    observed = chi2.ppf(quantiles, freedom) / freedom * ratio  # where seeds vary
    density = chi2.pdf(observed * freedom / ratio, freedom) / ratio
    weight = chi2.pdf(observed * freedom, freedom) / density  # where they do not

    half_width = norm.ppf(0.975) + np.concatenate([np.linspace(0, 10, 400), [np.inf]])[:, None]
    steady = 2 * norm.cdf(half_width) - 1
    varying = 2 * norm.cdf(half_width / np.sqrt(ratio)) - 1

    bounds = []
    for multiplier in np.arange(0, 4, 0.1):
        least = (weight * steady - multiplier * varying).min(axis=0)
        bounds.append(float(least.mean()) + multiplier * LEAST_COVERAGE)
    return max(bounds)


def rare_parts(n: int, share: float, times: int) -> dict[str, Any]:
    """Return the coverage where only one variant is correct on whole parts, with every seed.

    `share` of all parts are such; both variants give the same answers to the rest.
    """
    world = World(n=n, rate=0.5, clustering=0.0, seeds=SEEDS)
    parts, rng = world.parts(), np.random.default_rng([n, round(1000 * share)])

    covered = {1.0: 0, 1 / 3: 0}  # by the share of the least variance of a part
    for number in range(times):
        rare = (rng.random(int(parts.max()) + 1) < share)[parts].astype(np.float64)
        spread = measure_spread(np.tile(rare, (SEEDS, 1)), np.zeros((SEEDS, n)), parts)
        draws = random_draws(spread, np.random.default_rng(number), DRAWS)

        for least in covered:
            errors = possible_errors(
                draws,
                parts=max(spread.parts, least * spread.one_part),
                seeds=spread.seeds,
                chance=spread.chance,
                freedom=spread.freedom,
            )
            covered[least] += int(abs(rare.mean() - share) <= np.quantile(errors, 0.95))

    return {
        "n": n,
        "share": share,
        "coverage": covered[1.0] / times,
        "with_a_third": covered[1 / 3] / times,
    }


if __name__ == "__main__":
    main()
