"""More records, but no comparison records: tells "comparison records helped" from "more training helped"."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from vlmbench.config import VariantConfig, schema
from vlmbench.data.comparison import Comparison, comparison_tasks, missing_kinds
from vlmbench.data.variants._common import of_tasks
from vlmbench.types import Record, Task


@schema("data", "matched_control")
@dataclass(kw_only=True)
class MatchedControlConfig(VariantConfig):
    comparison: list[Comparison] = field(default_factory=lambda: list(Comparison))  # the kinds to match

    def select(self, records: Sequence[Record], *, cost: Callable[[Record], int], seed: int) -> list[int]:
        """judge_pair records, repeated until their trained tokens equal with_comparison's to within half a record.

        Repeats are drawn in whole passes over all of them, each pass in its own random order.
        """
        tasks = {record.task for record in records}
        judged = of_tasks(records, [Task.JUDGE_PAIR])
        missing = sum(cost(records[i]) for i in of_tasks(records, comparison_tasks(self.comparison, tasks)))
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
        return missing_kinds(self.comparison, tasks)
