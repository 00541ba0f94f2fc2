"""Are verdicts on cross-validations right? Simulate some whose truth is known; compare rules.

    python -m bench.folds [--draws 2000]

All runs of one fold and variant share a training set. Its effect is no part of the variance that
parts and seeds show, so each rule here treats folds in another way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from bench import record
from bench.worlds import FoldWorld, fold_worlds
from vlmbench.stats.clusters import MIN_EFFECTIVE
from vlmbench.stats.compare import Pair
from vlmbench.stats.spread import Variance, half_width

FOLDS = 5


def main() -> None:
    """Simulate, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=2000, help="simulated for each row")
    parser.add_argument("--out", default="", help="end of the result file's name")
    arguments = parser.parse_args()

    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(partial(false_verdicts, times=arguments.draws), fold_worlds()))
    print(record.table(rows))

    judged = [row for row in rows if row["judged"]]
    summary = [
        {
            "rule": rule,
            "worlds": len(judged),
            "largest": max(row[rule] for row in judged),
            "mean": float(np.mean([row[rule] for row in judged])),
            "mean_power": float(np.mean([row[f"{rule}_power"] for row in judged])),
        }
        for rule in RULES
    ]
    print(f"\n{record.table(summary)}")
    name = record.result_name("folds", arguments.out)
    figures = {"draws": arguments.draws, "folds": FOLDS, "worlds": rows, "summary": summary}
    print(record.write(name, figures))


Rule = Callable[[Pair], float]


def _ours(pair: Pair) -> float:
    return pair.spread.half_width()


def _parts(pair: Pair) -> float:
    """Return the half-width by parts and seeds, as if there were no folds."""
    return half_width(pair.spread.components)


def _folds(pair: Pair) -> float:
    """Return the half-width by the folds' own differences: their variance over their number."""
    return half_width((_of_folds(pair),))


def _folds_and_seeds(pair: Pair) -> float:
    """Return the half-width by folds in place of parts, with seeds."""
    return half_width((_of_folds(pair), *pair.spread.seeds))


def _added(pair: Pair) -> float:
    """Return the half-width by parts, folds and seeds, each in full."""
    first, *seeds = pair.spread.components
    return half_width((first, _of_folds(pair), *seeds))


def _corrected(pair: Pair) -> float:
    """Return the half-width by folds with the factor of Nadeau and Bengio (2003).

    Machine Learning 52: 1/K becomes 1/K + test/train records, and that is 1 / (K - 1).
    """
    variance = _of_folds(pair)
    return half_width((replace(variance, value=variance.value * (1 + FOLDS / (FOLDS - 1))),))


def _of_folds(pair: Pair) -> Variance:
    spread, folds = pair.spread, pair.spread.folds
    if folds is None:
        raise ValueError("the pair has no folds")
    return replace(folds, value=max(folds.value, spread.one_record))


RULES: dict[str, Rule] = {
    "ours": _ours,
    "parts_and_seeds": _parts,
    "folds": _folds,
    "folds_and_seeds": _folds_and_seeds,
    "added": _added,
    "corrected": _corrected,
}


def false_verdicts(world: FoldWorld, times: int) -> dict[str, Any]:
    """Return how often one of two equal variants is called better or worse, rule by rule.

    Power is measured at a true difference that perfect knowledge of its spread sees in 80 %.
    `judged` is False where parts are too few for a verdict.
    """
    rng = world.rng()
    differences, widths, effective = [], [], []
    for _ in range(times):
        pair = world.pair(rng)
        if pair is None or not np.isfinite(pair.spread.clusters.value):
            continue  # a fold lacks a label
        differences.append(pair.difference)
        widths.append([rule(pair) for rule in RULES.values()])
        effective.append(pair.design.effective_clusters)

    observed, allowed = np.array(differences), np.array(effective) >= MIN_EFFECTIVE
    shift = (1.96 + 0.84) * float(observed.std())
    row = world.facts() | {"judged": bool(allowed.mean() > 0.5)}
    for rule, width in zip(RULES, np.array(widths).T, strict=True):
        row[rule] = float(((np.abs(observed) > width) & allowed).mean())
        row[f"{rule}_power"] = float(((observed + shift > width) & allowed).mean())
    return row


if __name__ == "__main__":
    main()
