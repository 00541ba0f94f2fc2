"""Are verdicts right where few validation parts gave the thresholds? Simulate equal variants.

    python -m bench.thresholds [--draws 400]

All runs of a variant are calibrated on the same validation parts. Their effect is no part of the
variance that test parts and seeds show.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import record
from bench.worlds import RECORD, Floats
from vlmbench.stats import Compared, Decided, Rule, calibrate, redraw
from vlmbench.stats.compare import Pair, paired
from vlmbench.types import Prediction, Task

RULE = Rule(figure=Compared.BALANCED_ACCURACY)


@dataclass(frozen=True, kw_only=True)
class ThresholdWorld:
    """Where scores of equal variants come from, with the parts that calibrate them.

    The margin of a record is normal. Its mean is `skill`, or minus that for normal records. Shares
    of its variance, 1, belong to the part (for both arms alike), and to the part and the arm
    together (`own`). The rest belongs to the record and to the single run. Each run leans to a
    label by `lean` times a normal number. Each part has `size` records, every second one positive.
    """

    validation: int
    test: int
    size: int = 6
    own: float = 0.0
    shared: float = 0.2
    lean: float = 0.5
    skill: float = 1.0
    seeds: int = 3

    def facts(self) -> dict[str, Any]:
        """Return the columns of a table that name the world."""
        return {
            "validation": self.validation,
            "test": self.test,
            "size": self.size,
            "own": self.own,
            "seeds": self.seeds,
        }

    def rng(self) -> np.random.Generator:
        """Return random numbers of this world."""
        return np.random.default_rng([*repr(self).encode()])

    def pairs(self, rng: np.random.Generator) -> tuple[Pair, Pair]:
        """Return the comparison of one ablation, without and with redrawn thresholds."""
        parts = np.arange(self.validation + self.test).repeat(self.size)
        positive = np.arange(len(parts)) % 2 == 0
        common = rng.standard_normal(len(parts)) * np.sqrt(RECORD * (1 - self.shared - self.own))
        common += rng.standard_normal(parts[-1] + 1)[parts] * np.sqrt(self.shared)
        common += np.where(positive, self.skill, -self.skill)

        is_test = parts >= self.validation
        arms = [self._arm(rng, common, parts, positive) for _ in range(2)]
        plain, decided = (
            paired(
                *outcomes,
                clusters=parts[is_test],
                figure=RULE.figure,
                positive=positive[is_test],
            )
            for outcomes in ([arm.outcomes for arm in arms], arms)
        )
        return plain, decided

    def _arm(
        self,
        rng: np.random.Generator,
        common: Floats,
        parts: NDArray[np.intp],
        positive: NDArray[np.bool_],
    ) -> Decided:
        """Return the decisions of one arm on the test parts."""
        own = rng.standard_normal(parts[-1] + 1)[parts] * np.sqrt(self.own)
        left = (1 - RECORD) * (1 - self.shared - self.own)
        margins = common + own + rng.standard_normal((self.seeds, len(parts))) * np.sqrt(left)
        margins += rng.standard_normal((self.seeds, 1)) * self.lean

        is_test = parts >= self.validation
        validation = [_predictions(row, parts, positive, ~is_test) for row in margins]
        lines = np.array([RULE.line(calibrate(own)) for own in validation])
        judged = lines[:, :1] * margins + lines[:, 1:] > 0
        right = (judged == positive)[:, is_test].astype(np.float64)

        redrawn = redraw(validation, RULE)
        if redrawn is None:
            raise ValueError(f"{self}: too few records to calibrate")
        return redrawn.decide(right, margins[:, is_test], positive[is_test])


def _predictions(
    margins: Floats,
    parts: NDArray[np.intp],
    positive: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
) -> list[Prediction]:
    return [
        Prediction(
            id=str(index),
            task=Task.JUDGE_PAIR,
            group=f"{parts[index]:04}",
            view="raw",
            expected="abnormal" if positive[index] else "normal",
            predicted=None,
            scores={"normal": 0.0, "abnormal": float(margins[index])},
        )
        for index in np.flatnonzero(chosen).tolist()
    ]


def threshold_worlds() -> list[ThresholdWorld]:
    """Return every recorded world."""
    return [
        ThresholdWorld(validation=validation, test=test, size=size, own=own)
        for own in (0.0, 0.2)
        for test, size in ((20, 6), (40, 10), (100, 6))
        for validation in (3, 5, 10, 20)
    ]


def false_verdicts(world: ThresholdWorld, times: int) -> dict[str, Any]:
    """Return how often one of two equal variants is called better or worse, and the power.

    Power is measured at a true difference that perfect knowledge of its spread sees in 80 %.
    """
    rng = world.rng()
    differences, widths = [], []
    for _ in range(times):
        pairs = world.pairs(rng)
        differences.append(pairs[0].difference)
        widths.append([pair.spread.half_width() for pair in pairs])

    observed = np.array(differences)
    shift = (1.96 + 0.84) * float(observed.std())
    row = world.facts()
    for name, width in zip(("without", "ours"), np.array(widths).T, strict=True):
        row[name] = float((np.abs(observed) > width).mean())
        row[f"{name}_power"] = float((observed + shift > width).mean())
    return row


def main() -> None:
    """Simulate, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=400, help="simulated for each row")
    parser.add_argument("--out", default="", help="end of the result file's name")
    arguments = parser.parse_args()

    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(partial(false_verdicts, times=arguments.draws), threshold_worlds()))
    print(record.table(rows))
    figures = {"draws": arguments.draws, "worlds": rows, "summary": summary(rows)}
    print(f"\n{record.table(figures['summary'])}")
    print(record.write(record.result_name("thresholds", arguments.out), figures))


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the largest and mean share of false verdicts, and the mean power, of each interval."""
    return [
        {
            "interval": name,
            "worlds": len(rows),
            "largest": max(row[name] for row in rows),
            "mean": float(np.mean([row[name] for row in rows])),
            "mean_power": float(np.mean([row[f"{name}_power"] for row in rows])),
        }
        for name in ("without", "ours")
    ]


if __name__ == "__main__":
    main()
