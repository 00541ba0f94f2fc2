"""Always the commonest training label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vlmbench.baselines.contract import Answer, BaselineConfig, Given, Method
from vlmbench.config import schema
from vlmbench.types import Record


@schema("baseline", "majority")
@dataclass(kw_only=True)
class MajorityConfig(BaselineConfig):
    """Settings of conf/baseline/majority.yaml."""

    title = "the commonest training label"

    def fit(self, given: Given) -> Method:
        """Return the log-odds of the training labels, with half a record added to each."""
        num_positive = sum(given.is_positive(record) for record in given.train)
        num_negative = len(given.train) - num_positive
        margin = math.log((num_positive + 0.5) / (num_negative + 0.5))

        def answer(records: Sequence[Record]) -> list[Answer]:
            return [Answer(margin=margin) for _ in records]

        return Method(answer=answer)
