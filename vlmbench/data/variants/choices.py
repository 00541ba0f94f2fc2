"""Multiple choices: records that ask which of their options is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlmbench.config import VariantConfig, schema
from vlmbench.data.variants._common import of_tasks
from vlmbench.types import Record, Task


@schema("data", "choices")
@dataclass(kw_only=True)
class ChoicesConfig(VariantConfig):
    def select(self, records: Sequence[Record], *, cost: Callable[[Record], int], seed: int) -> list[int]:
        return of_tasks(records, [Task.CHOOSE_OPTION])
