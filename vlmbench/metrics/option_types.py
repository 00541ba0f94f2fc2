"""Accuracy on each type of multiple choice, as benchmarks report it: a model may be good at one and poor at another."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from vlmbench.metrics._select import ordinary, share
from vlmbench.types import Prediction, Rate, Task


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """`accuracy_<type>` for each `type` that the records' meta names, an unparsable answer being wrong;
    `mean_type_accuracy`, the mean of these, each type counting the same. Absent for other tasks."""
    types = defaultdict(list)
    for prediction in ordinary(predictions):
        if prediction.task is Task.CHOOSE_OPTION and prediction.meta.get("type"):
            types[_name(prediction.meta["type"])].append(prediction)
    if len(types) < 2:
        return {}
    rates = {f"accuracy_{name}": share(some, lambda one: one.correct) for name, some in sorted(types.items())}
    mean = sum(sum(rate.hits) / len(rate.hits) for rate in rates.values()) / len(rates)
    return {**rates, "mean_type_accuracy": mean}


def _name(text: str) -> str:
    return re.sub(r"\W+", "_", text.casefold()).strip("_")[:60] or "other"
