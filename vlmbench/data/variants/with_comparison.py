"""The training set with comparison records added: judge_pair records beside those of the chosen kinds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from vlmbench.config import VariantConfig, schema
from vlmbench.data.comparison import Comparison, comparison_tasks, missing_kinds
from vlmbench.data.variants._common import of_tasks
from vlmbench.types import Record, Task


@schema("data", "with_comparison")
@dataclass(kw_only=True)
class WithComparisonConfig(VariantConfig):
    comparison: list[Comparison] = field(default_factory=lambda: list(Comparison))

    def select(self, records: Sequence[Record], *, cost: Callable[[Record], int], seed: int) -> list[int]:
        tasks = {record.task for record in records}
        return of_tasks(records, [Task.JUDGE_PAIR, *comparison_tasks(self.comparison, tasks)])

    def notes(self, tasks: Collection[Task]) -> list[str]:
        return missing_kinds(self.comparison, tasks)
