"""Are the statistics right? Simulate ablations whose truth is known, and see what vlmbench says.

    python -m bench.statistics [--ablations 2000]

Tables: false verdicts between equal variants and the power of each rule; single rates and AUROC;
claims of no difference; power notes; families of comparisons; looks while seeds are added.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata, t

from bench import record
from bench.worlds import SHAPES, Floats, World, equal_parts, worlds
from vlmbench.report.plan import PLANNED
from vlmbench.stats import Compared, compare, estimate, estimate_rate, power
from vlmbench.stats.clusters import MIN_EFFECTIVE
from vlmbench.stats.compare import LEVEL, MARGIN, Pair, paired
from vlmbench.stats.spread import Variance
from vlmbench.types import Estimate, Prediction, Rate, Task

FAMILY = 10  # comparisons that Holm corrects together
MAX_GROWTH = 20  # larger plans, in multiples of the world's size, are not tried
HIGHEST_LEVEL = 0.06  # a rule with more false verdicts in a world is not valid there


def main() -> None:
    """Simulate, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ablations", type=int, default=2000, help="simulated for each row")
    parser.add_argument("--out", default="", help="end of the result file's name")
    arguments = parser.parse_args()

    figures = simulate(arguments.ablations)
    for name, rows in figures.items():
        print(f"\n{name}\n{record.table(rows)}")
    name = record.result_name("statistics", arguments.out)
    print(record.write(name, {"ablations": arguments.ablations, **figures}))


def simulate(times: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every table."""
    with ProcessPoolExecutor() as pool:
        equal = list(pool.map(partial(false_verdicts, times=times), worlds(), chunksize=1))
        rates = list(pool.map(partial(rate_coverage, times=times), _one_model()))
        areas = list(pool.map(partial(area_coverage, times=max(times // 10, 1)), _one_model()))
        claims = list(pool.map(partial(claims_of_none, times=times), _rare_parts()))
        plans = list(pool.map(partial(power_notes, times=times), _planned_worlds()))
        families = list(pool.map(partial(family_error, times=max(times // 2, 1)), (1, 3, FAMILY)))
        looks = list(pool.map(partial(looking, times=max(times // 2, 1)), ((2, 10), (3, 10))))

    return {
        "equal_variants": equal,
        "summary": summary(equal),
        "rates": rates,
        "aurocs": areas,
        "claims_of_no_difference": claims,
        "power": plans,
        "family": families,
        "looks": looks,
    }


# Equal variants

Rule = Callable[[Pair], float]


def _ours(pair: Pair) -> float:
    return pair.spread.half_width()


def _satterthwaite(pair: Pair) -> float:
    """Return the half-width by t with Satterthwaite's degrees of freedom, nothing taken off."""
    parts = pair.spread.components
    values = np.array([part.value for part in parts])
    freedoms = np.array([part.freedom for part in parts])
    freedom = values.sum() ** 2 / (values**2 / freedoms).sum()
    return float(t.ppf(0.975, freedom) * np.sqrt(values.sum()))


def _sharper(pair: Pair) -> float:
    """Return the half-width by our rule with a larger share of Satterthwaite's."""
    return _mixture(pair, lambda freedom: 1 - 1 / freedom**2)


def _mixture(pair: Pair, share_of: Callable[[float], float]) -> float:
    """Return the half-width by a mixture of Satterthwaite's rule and Howe's."""
    first, *seeds = pair.spread.components
    freedoms = np.array([first.freedom, *(side.freedom for side in seeds)])
    share = share_of(min(side.freedom for side in seeds))
    values = np.array([first.value, *(side.value for side in seeds)])
    chance = np.array([0.0, *(side.chance for side in seeds)])
    own = np.maximum(values - share * chance, 0.0)

    freedom = own.sum() ** 2 / (values**2 / freedoms).sum()
    pooled = t.ppf(0.975, max(freedom, freedoms.min())) * np.sqrt(own.sum())
    single = np.sqrt((own * t.ppf(0.975, freedoms) ** 2).sum())
    return float(share * pooled + (1 - share) * single)


def _widest(pair: Pair) -> float:
    """Return the half-width by Howe's rule: the root of the components' squared half-widths."""
    squares = [part.value * t.ppf(0.975, part.freedom) ** 2 for part in pair.spread.components]
    return float(np.sqrt(sum(squares)))


def _sandwich(pair: Pair) -> float:
    """Return the half-width by the usual sandwich and G - 1 degrees of freedom, with seeds."""
    design, spread = pair.design, pair.spread
    equal = design.num_clusters / max(design.num_clusters - 1, 1)
    shrink = float(((1 - design.weights) ** 2 * design.weights).sum() / design.weights.sum())
    clusters = Variance(
        value=max(spread.clusters.value * shrink * equal, spread.one_record),
        freedom=design.num_clusters - 1,
    )
    parts = (clusters, *spread.seeds)
    values = np.array([part.value for part in parts])
    freedoms = np.array([part.freedom for part in parts])
    freedom = values.sum() ** 2 / (values**2 / freedoms).sum()
    return float(t.ppf(0.975, freedom) * np.sqrt(values.sum()))


RULES: dict[str, Rule] = {
    "ours": _ours,
    "sharper": _sharper,
    "satterthwaite": _satterthwaite,
    "howe": _widest,
    "sandwich": _sandwich,
}


def false_verdicts(world: World, times: int) -> dict[str, Any]:
    """Return how often one of two equal variants is called better or worse, rule by rule.

    The oracle knows the difference's true spread; no valid interval is narrower. Power is measured
    at a true difference that the oracle sees in 80 % of ablations. Below MIN_EFFECTIVE parts no
    rule gives a verdict.
    """
    differences, widths, effective = _simulate_rules(world, times)
    deviation = float(differences.std())
    allowed = effective >= MIN_EFFECTIVE

    row = world.facts() | {"oracle_width": 2 * 1.96 * deviation}
    shift = (1.96 + 0.84) * deviation
    for index, rule in enumerate(RULES):
        is_false = (np.abs(differences) > widths[index]) & allowed
        seen = (differences + shift > widths[index]) & allowed
        row[rule] = float(is_false.mean())
        row[f"{rule}_power"] = float(seen.mean())
    row["width"] = float(2 * widths[0].clip(max=1.0).mean())

    valid = [rule for rule in RULES if row[rule] <= HIGHEST_LEVEL]
    row["best_valid_power"] = max((row[f"{rule}_power"] for rule in valid), default=None)
    return row


def _simulate_rules(world: World, times: int) -> tuple[Floats, Floats, Floats]:
    """Return the differences (times), the half-widths (rules, times) and the effective parts."""
    rng = world.rng()
    differences, widths, effective = [], [], []
    for _ in range(times):
        pair = world.pair(rng)
        if pair is None:
            continue
        differences.append(pair.difference)
        widths.append([rule(pair) for rule in RULES.values()])
        effective.append(pair.design.effective_clusters)
    return np.array(differences), np.array(widths).T, np.array(effective)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row: the share of worlds by their rate of false verdicts, and the power lost."""
    rates = np.array([row["ours"] for row in rows])
    lost = [
        row["best_valid_power"] - row["ours_power"]
        for row in rows
        if row["best_valid_power"] is not None
    ]
    return [
        {
            "worlds": len(rows),
            "mean": float(rates.mean()),
            "largest": float(rates.max()),
            "above_6_percent": float((rates > 0.06).mean()),
            "above_7_percent": float((rates > 0.07).mean()),
            "most_power_lost": float(max(lost)),
            "mean_power_lost": float(np.mean(lost)),
        }
    ]


# One model


def _one_model() -> list[World]:
    return [
        World(name=name, sizes=sizes, rate=rate, shared=shared, seeds=(1, 1), spreads=(0.0, 0.0))
        for name, sizes in SHAPES.items()
        for rate in (0.75, 0.95)
        for shared in (0.1, 0.4)
    ]


def rate_coverage(world: World, times: int) -> dict[str, Any]:
    """Return how often the interval of one model's accuracy holds its true accuracy."""
    rng = world.rng(1)
    parts = tuple(map(str, world.clusters.tolist()))
    intervals = []
    for _ in range(times):
        correct, _, _ = world.outcomes(rng)
        intervals.append(estimate_rate(Rate(hits=tuple(correct[0] > 0), parts=parts)))
    return world.facts() | _coverage(intervals, world.rate) | {"shared": world.shared}


def area_coverage(world: World, times: int) -> dict[str, Any]:
    """Return how often the interval of one model's AUROC holds its true AUROC."""
    rng = world.rng(2)
    truth = float(norm.cdf(np.sqrt(2) * norm.ppf(world.rate)))  # of independent records

    def auroc(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
        positive = np.array([one.expected == "abnormal" for one in predictions])
        ranks = rankdata([one.scores["abnormal"] for one in predictions])
        m, n = int(positive.sum()), int((~positive).sum())
        above = ranks[positive].sum() - m * (m + 1) / 2
        return {"auroc": float(above) / (m * n)} if m and n else {}

    intervals = []
    for _ in range(times):
        right, _, positive = world.draw(rng)
        scores = right[0] * (2.0 * positive - 1)
        predictions = [
            Prediction(
                id=str(index),
                task=Task.JUDGE_PAIR,
                group=str(part),
                view="raw",
                expected="abnormal" if is_positive else "normal",
                predicted=None,
                scores={"abnormal": score, "normal": 0.0},
            )
            for index, (part, is_positive, score) in enumerate(
                zip(world.clusters.tolist(), positive.tolist(), scores.tolist(), strict=True)
            )
        ]
        found = estimate(auroc, predictions, seed=0).get("auroc")
        if found is not None:
            intervals.append(found)
    return world.facts() | _coverage(intervals, truth) | {"shared": world.shared}


def _coverage(intervals: Sequence[Estimate], truth: float) -> dict[str, Any]:
    holds = [found.low <= truth <= found.high for found in intervals]
    return {
        "coverage": float(np.mean(holds)),
        "width": float(np.mean([found.high - found.low for found in intervals])),
    }


# Claims of no difference


def _rare_parts() -> list[tuple[int, int, float]]:
    return [
        (parts, size, share)
        for parts in (10, 40, 120, 200, 500)
        for size in (1, 15)
        for share in (0.03, 0.05)
    ]


def claims_of_none(world: tuple[int, int, float], times: int) -> dict[str, Any]:
    """Return how often no difference of more than 2 points is claimed where whole parts differ.

    `share` of all parts are judged right by a alone, so a is truly better by `share`, more than 2
    points.
    """
    parts, size, share = world
    rng = np.random.default_rng([parts, size, round(1000 * share)])
    clusters = np.repeat(np.arange(parts), size)
    claimed = 0
    for _ in range(times):
        differs = (rng.random(parts) < share)[clusters]
        a, b = np.ones((3, len(clusters))), np.tile(1.0 - differs, (3, 1))
        claimed += compare(a, b, clusters=clusters).word.startswith("no difference")
    facts = {"parts": parts, "records_of_a_part": size, "difference": share}
    return facts | {"claimed": claimed / times, "margin": MARGIN}


# Plans


def _planned_worlds() -> list[World]:
    return [
        World(
            name=f"{parts} x 4",
            sizes=equal_parts(parts, 4),
            rate=rate,
            own=own,
            effect=0.2,
            spreads=(spread, spread),
        )
        for spread in (0.15, 0.04)
        for parts in (25, 75, 250)
        for rate in (0.5, 0.75, 0.9)
        for own in (0.0, 0.25)
    ]


def power_notes(world: World, times: int) -> dict[str, Any]:
    """Return the median plan of single ablations, and the power of ablations of that plan.

    A plan is the number of parts, or of seeds, that see the true difference. A plan that does not
    exist counts as the largest. Seeds are whole, so their plan has 80 % power or more, and one seed
    less has at most 80 %.
    """
    rng = world.rng(3)
    truth = _true_difference(world)
    plans = [_plan(world, rng, truth) for _ in range(max(times // 20, 1))]
    parts, seeds = (sorted(column)[len(column) // 2] for column in zip(*plans, strict=True))

    facts = {
        "n": world.n,
        "rate": world.rate,
        "own": world.own,
        "seed_spread": world.spreads[0],
        "difference": truth,
        "plans": len(plans),
        "median_parts": _finite(parts),
        "power": None,
        "median_seeds": _finite(seeds),
        "power_of_seeds": None,
        "power_of_one_seed_less": None,
    }
    tried = max(times // 4, 1)
    if parts <= MAX_GROWTH * len(world.sizes):
        facts["power"] = _power(replace(world, sizes=equal_parts(int(parts), 4)), tried)
    if seeds <= power.MAX_SEEDS:
        facts["power_of_seeds"] = _power(replace(world, seeds=(int(seeds),) * 2), tried)
        fewer = replace(world, seeds=(int(seeds) - 1,) * 2)
        facts["power_of_one_seed_less"] = _power(fewer, tried) if seeds > 2 else None
    return facts


def _true_difference(world: World) -> float:
    """Return the difference of a and b over all parts, records and seeds."""

    def accuracy(effect: float) -> float:
        return float(norm.cdf((norm.ppf(world.rate) + effect) / np.sqrt(1 + world.spreads[0] ** 2)))

    return accuracy(world.effect) - accuracy(0.0)


def _plan(world: World, rng: np.random.Generator, truth: float) -> tuple[float, float]:
    """Return the parts and the seeds that one ablation asks for; infinite without a plan."""
    pair = world.pair(rng)
    if pair is None:
        return np.inf, np.inf
    variances = power.sources(pair.spread)
    parts = power.parts_needed(variances, truth, n_seeds=world.seeds[0])
    seeds = power.seeds_needed(variances, truth, n_parts=len(world.sizes))
    return parts or np.inf, seeds or np.inf


def _power(world: World, times: int) -> float:
    rng = world.rng(4)
    pairs = (world.pair(rng) for _ in range(times))
    seen = [pair.difference > pair.spread.half_width() for pair in pairs if pair is not None]
    return float(np.mean(seen))


def _finite(number: float) -> int | None:
    return int(number) if np.isfinite(number) else None


# Families and looks


def family_error(size: int, times: int) -> dict[str, Any]:
    """Return how often any of `size` variants, all equal to one baseline, gets a false word."""
    world = World(name="family", sizes=equal_parts(100, 4), seeds=(3, 3), spreads=(0.1, 0.1))
    rng = np.random.default_rng(size)
    wrong = 0
    for _ in range(times):
        part = rng.standard_normal(100)[world.clusters] * np.sqrt(world.shared)
        sides = [_side(world, rng, part, 3) for _ in range(size + 1)]
        # Holm finds a difference if the smallest p-value is below LEVEL / size.
        wrong += any(_differ(world, side, sides[0], LEVEL / size) for side in sides[1:])
    return {"comparisons": size, "any_wrong": wrong / times}


def looking(plan: tuple[int, int], times: int) -> dict[str, Any]:
    """Return how often equal variants get a false word in any look while seeds are added.

    `plan` is the planned number of seeds and the largest number that is tried. After each seed
    somebody looks again, and stops at a verdict.
    """
    planned, most = plan
    world = World(name="looks", sizes=equal_parts(60, 4), spreads=(0.15, 0.15))
    rng = np.random.default_rng(planned)
    wrong = uncorrected = 0
    for _ in range(times):
        part = rng.standard_normal(60)[world.clusters] * np.sqrt(world.shared)
        a, b = _side(world, rng, part, most), _side(world, rng, part, most)
        numbers = range(planned, most + 1)
        levels = [PLANNED]
        levels += [(LEVEL - PLANNED) / (k * (k + 1)) for k in range(2, len(numbers) + 1)]
        pairs = [(a[:k], b[:k]) for k in numbers]
        wrong += any(
            _differ(world, *pair, level) for pair, level in zip(pairs, levels, strict=True)
        )
        uncorrected += any(_differ(world, *pair, LEVEL) for pair in pairs)
    looks = len(range(planned, most + 1))
    return {
        "planned_seeds": planned,
        "looks": looks,
        "any_wrong": wrong / times,
        "any_wrong_without_shares": uncorrected / times,
    }


def _differ(world: World, a: Floats, b: Floats, level: float) -> bool:
    """Return whether the p-value of a against b is below `level`."""
    pair = paired(a, b, clusters=world.clusters, figure=Compared.ACCURACY)
    return abs(pair.difference) > pair.spread.half_width(1 - level)


def _side(world: World, rng: np.random.Generator, part: Floats, seeds: int) -> Floats:
    """Return the answers of one more variant to the same records."""
    run = rng.standard_normal((seeds, world.n)) * np.sqrt(1 - world.shared)
    seed = rng.standard_normal((seeds, 1)) * world.spreads[0]
    right: Floats = (norm.ppf(world.rate) + seed + part + run > 0).astype(np.float64)
    return right


if __name__ == "__main__":
    main()
