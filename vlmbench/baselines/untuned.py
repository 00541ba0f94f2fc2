"""The model itself, before its first training step."""

from __future__ import annotations

from dataclasses import dataclass

from vlmbench.baselines.contract import BaselineConfig, Given, Method
from vlmbench.config import schema


@schema("baseline", "untuned")
@dataclass(kw_only=True)
class UntunedConfig(BaselineConfig):
    """Settings of conf/baseline/untuned.yaml."""

    title = "the model before its first step"
    learns = False

    def fit(self, given: Given) -> Method:
        """Return the untrained model, asked in the words of the run."""
        return Method(answer=given.ask_untuned)
