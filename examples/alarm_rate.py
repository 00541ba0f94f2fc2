"""Return how often the model answers "abnormal" or "different", whatever the truth.

A metric is one file. Example 04 puts this one into the folder `metrics/` of a folder of plug-ins.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.types import LABELS, Prediction, Probe, Rate

FIGURES = (
    MetricInfo(
        name="alarm_rate",
        title="Alarms",
        unit="share",
        meaning="Share of records that the model calls abnormal or different.",
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `alarm_rate`; {} for a task without a positive label."""
    ordinary = [prediction for prediction in predictions if prediction.probe is Probe.NONE]
    records = [prediction for prediction in ordinary if prediction.task in LABELS]
    if not records:
        return {}

    return {
        "alarm_rate": Rate(
            hits=tuple(record.predicted == LABELS[record.task][1] for record in records),
            parts=tuple(record.group for record in records),
        )
    }
