"""More records, but no comparison records.

This variant tells "comparison records helped" apart from "more training helped".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from vlmbench.config import VariantConfig, schema, setting
from vlmbench.data.comparison_kinds import (
    ComparisonKind,
    comparison_tasks,
    explain_missing_kinds,
)
from vlmbench.data.variants._common import positions_of_tasks
from vlmbench.types import Record, Task


@schema("data", "matched_control")
@dataclass(kw_only=True)
class MatchedControlConfig(VariantConfig):
    comparison: list[ComparisonKind] = setting(
        factory=lambda: list(ComparisonKind),
        meaning="Kinds of comparison whose trained tokens are matched: views, shapes.",
    )

    def select(
        self,
        records: Sequence[Record],
        *,
        cost: Callable[[Record], int],
        seed: int,
    ) -> list[int]:
        """Return the judge_pair records, repeated to match the trained tokens of with_comparison.

        The tokens match to within half a record. Repeats are drawn in whole passes over all of the
        records, each pass in its own random order.
        """
        tasks = {record.task for record in records}
        judged = positions_of_tasks(records, [Task.JUDGE_PAIR])
        compared = positions_of_tasks(records, comparison_tasks(self.comparison, tasks))
        missing = sum(cost(records[i]) for i in compared)
        costs = {i: cost(records[i]) for i in judged}

        rng = np.random.default_rng([seed, len(judged)])
        repeats: list[int] = []
        while True:
            for i in rng.permutation(judged).tolist():
                if missing < costs[i] / 2:
                    return judged + repeats

                missing -= costs[i]
                repeats.append(i)

    def notes(self, tasks: Collection[Task]) -> list[str]:
        return explain_missing_kinds(self.comparison, tasks)
