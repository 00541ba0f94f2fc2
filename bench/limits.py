"""How near to 95 % can an interval get where there are few misses? What bounds it, and why it is not narrower.

    python -m bench.limits [--ablations 4000]

`steady_seeds`: three seeds a side say little about how seeds vary. The least that an interval must cover where they do
not vary at all, if it covers 94 % where they do, whatever its rule, provided it is never narrower than records alone
would have it. `rare_parts`: whole parts that only one variant judges rightly, so few that an ablation may hold none;
with all of the least variance that vlmbench takes for possible, and with a third of it. `rates`: one model's accuracy
with parts of other sizes and other likeness than bench.statistics has.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import chi2, norm

from bench import record
from bench.statistics import DRAWS, World, rate_coverage
from vlmbench.stats.spread import measure, possible_errors, random_draws

LOWEST = 0.94
SEEDS = 3
RATIOS = (1.25, 1.5, 2.0, 3.0)  # of the seeds' variance, chance included, to chance alone
RARE = ((100, 0.04), (100, 0.08), (300, 0.02), (300, 0.04))  # records, share of the parts


def main() -> None:
    """Compute, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ablations", type=int, default=4000, help="simulated for each row")
    parser.add_argument("--out", default="", help="the end of the result file's name")
    arguments = parser.parse_args()
    worlds = [
        World(n=n, rate=rate, clustering=0.8, seeds=1, seed_spread=0.0) for n in (100, 300) for rate in (0.9, 0.98)
    ]
    worlds += [replace(world, clustering=0.2, per_group=size) for world in worlds for size in (2, 10)]
    figures = {
        "steady_seeds": [{"ratio": ratio, "least_coverage": least_coverage(ratio)} for ratio in RATIOS],
        "rare_parts": [rare_parts(n, share, times=arguments.ablations) for n, share in RARE],
        "rates": [{"per_group": w.per_group, **rate_coverage(w, times=arguments.ablations)} for w in worlds],
    }
    for name, rows in figures.items():
        print(f"\n{name}\n{record.table(rows)}")
    print(record.write(record.name("limits", arguments.out), {"ablations": arguments.ablations, **figures}))


def least_coverage(ratio: float) -> float:
    """Of an interval where seeds do not vary, if it covers LOWEST where their variance is `ratio` times chance.

    With so many parts that chance's variance, 1, is known, an interval is a width for each seeds' variance that is
    seen. By Lagrange's duality no width, from 1.96 on, has less than any multiplier gives.
    """
    freedom = 2 * (SEEDS - 1)
    seen = chi2.ppf((np.arange(20_000) + 0.5) / 20_000, freedom) / freedom * ratio  # drawn where seeds vary ...
    weight = chi2.pdf(seen * freedom, freedom) / (chi2.pdf(seen * freedom / ratio, freedom) / ratio)  # ... and do not
    half = norm.ppf(0.975) + np.concatenate([np.linspace(0, 10, 400), [np.inf]])[:, None]
    steady, varying = 2 * norm.cdf(half) - 1, 2 * norm.cdf(half / np.sqrt(ratio)) - 1
    bounds = [
        float((weight * steady - price * varying).min(axis=0).mean()) + price * LOWEST for price in np.arange(0, 4, 0.1)
    ]
    return max(bounds)


def rare_parts(n: int, share: float, times: int) -> dict[str, Any]:
    """Whole parts, `share` of all, that only one variant judges rightly, with every seed; the rest is judged alike."""
    world = World(n=n, rate=0.5, clustering=0.0, seeds=SEEDS)
    groups, rng = world.groups(), np.random.default_rng([n, round(1000 * share)])
    covered = {1.0: 0, 1 / 3: 0}
    for number in range(times):
        rare = (rng.random(int(groups.max()) + 1) < share)[groups].astype(np.float64)
        spread = measure(np.tile(rare, (SEEDS, 1)), np.zeros((SEEDS, n)), groups)
        draws = random_draws(spread, np.random.default_rng(number), DRAWS)
        for part in covered:
            groups_variance = max(spread.groups, part * spread.one_group)
            errors = possible_errors(
                draws, groups=groups_variance, seeds=spread.seeds, chance=spread.chance, freedom=spread.freedom
            )
            covered[part] += int(abs(rare.mean() - share) <= np.quantile(errors, 0.95))
    return {"n": n, "share": share, "coverage": covered[1.0] / times, "with_a_third": covered[1 / 3] / times}


if __name__ == "__main__":
    main()
