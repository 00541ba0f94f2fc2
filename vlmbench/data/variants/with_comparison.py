"""The training set with comparison records: judge_pair records and those of the chosen kinds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from vlmbench.config import VariantConfig, schema, setting
from vlmbench.data.comparison_kinds import ComparisonKind, comparison_tasks, explain_missing_kinds
from vlmbench.data.variants._common import positions_of_tasks
from vlmbench.types import Record, Task


@schema("data", "with_comparison")
@dataclass(kw_only=True)
class WithComparisonConfig(VariantConfig):
    comparison: list[ComparisonKind] = setting(
        factory=lambda: list(ComparisonKind),
        meaning="Kinds; views: one part, raw and processed; shapes: prism and cylinder.",
    )

    def select(
        self,
        records: Sequence[Record],
        *,
        cost: Callable[[Record], int],
        seed: int,
    ) -> list[int]:
        tasks = {record.task for record in records}
        compared = comparison_tasks(self.comparison, tasks)
        return positions_of_tasks(records, [Task.JUDGE_PAIR, *compared])

    def notes(self, tasks: Collection[Task]) -> list[str]:
        return explain_missing_kinds(self.comparison, tasks)
