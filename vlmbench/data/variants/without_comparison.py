"""The training set without comparison records: only judge_pair records train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlmbench.config import VariantConfig, schema
from vlmbench.data.variants._common import positions_of_tasks
from vlmbench.types import Record, Task


@schema("data", "without_comparison")
@dataclass(kw_only=True)
class WithoutComparisonConfig(VariantConfig):
    def select(
        self,
        records: Sequence[Record],
        *,
        cost: Callable[[Record], int],
        seed: int,
    ) -> list[int]:
        return positions_of_tasks(records, [Task.JUDGE_PAIR])
