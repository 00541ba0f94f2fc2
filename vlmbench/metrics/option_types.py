"""Accuracy on each type of multiple choice, as benchmarks report it.

A model may be good at one type and poor at another.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import select_ordinary, share
from vlmbench.types import Prediction, Rate, Task

FIGURES = (
    MetricInfo(
        name="mean_type_accuracy",
        title="Mean over types",
        unit="share",
        better="higher",
        meaning="Mean of the accuracies on each type of multiple choice, every type counting the "
        "same.",
        order=30,
        on_card=False,
    ),
)
PREFIX = "accuracy_"
MAX_NAME_LENGTH = 60  # characters of a type in a figure's name


def describe(name: str) -> MetricInfo | None:
    """Return the description of `accuracy_<type>`, titled as its benchmark calls the type."""
    if not name.startswith(PREFIX):
        return None

    title = name.removeprefix(PREFIX).replace("_", " ").capitalize()
    return MetricInfo(
        name=name, title=title, unit="share", better="higher", meaning="", on_card=False
    )


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `accuracy_<type>` for each `type` in the records' meta, and `mean_type_accuracy`.

    The mean counts each type the same. An answer that names no label is wrong. Other tasks, and
    records of fewer than two types, have no such figures.
    """
    records_of_type = defaultdict(list)
    for prediction in select_ordinary(predictions):
        if prediction.task is Task.CHOOSE_OPTION and prediction.meta.get("type"):
            records_of_type[_name_of(prediction.meta["type"])].append(prediction)
    if len(records_of_type) < 2:
        return {}

    rates = {
        PREFIX + name: share(records, lambda prediction: prediction.correct)
        for name, records in sorted(records_of_type.items())
    }
    accuracies = [sum(rate.hits) / len(rate.hits) for rate in rates.values()]
    return {**rates, "mean_type_accuracy": sum(accuracies) / len(accuracies)}


def _name_of(type_text: str) -> str:
    name = re.sub(r"\W+", "_", type_text.casefold()).strip("_")
    return name[:MAX_NAME_LENGTH] or "other"
