"""Metrics: named figures from the predictions of one task and one view. A metric is one file.

A metric file has two public names:

- `FIGURES`: a tuple with a MetricInfo (title, unit, direction, meaning) for each figure.
- `measure(predictions) -> dict[str, Rate | float]`: the figures by name.

`measure` returns `{}` where the metric does not apply. A `Rate` is a share of records. A
`Difference` is a difference of two shares. Any other float is from 0 to 1.

A third name is optional: `describe(name) -> MetricInfo | None`, for names that depend on the data.

Every table, legend, card, workspace and page takes its words and its order from these files. Put
`mine.py` here and its figures appear; nothing else has to change.

A float rests on the records of the Rates beside it, or else on the ordinary records. Probes that a
metric joins with a base record must have that record's `group`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache

from vlmbench.config.registry import module_folders, module_names
from vlmbench.metrics._info import (
    Measure,
    MetricFile,
    MetricInfo,
    Section,
    read_metric_file,
)
from vlmbench.types import Prediction, Probe, Task, UserError

__all__ = [
    "Measure",
    "MetricInfo",
    "all_figures",
    "all_metrics",
    "by_task_and_view",
    "decision_metrics",
    "describe",
    "figures_in",
]


def all_metrics() -> dict[str, Measure]:
    """Return `measure` of every metric file, by the file's name, in alphabetical order.

    Raise UserError for a file that does not describe its figures.
    """
    return {name: metric.measure for name, metric in _metric_files().items()}


def decision_metrics() -> dict[str, Measure]:
    """Return `measure` of the metric files that have a figure of decisions."""
    return {
        name: metric.measure
        for name, metric in _metric_files().items()
        if any(info.of_decisions for info in metric.figures)
    }


def all_figures() -> list[MetricInfo]:
    """Return every described figure in the order of the columns."""
    figures = [info for metric in _metric_files().values() for info in metric.figures]
    return sorted(figures, key=lambda info: (info.order, info.name))


def figures_in(section: Section) -> list[MetricInfo]:
    """Return the described figures of one section in the order of the columns."""
    return [info for info in all_figures() if info.section == section]


def describe(name: str) -> MetricInfo:
    """Return the description of a figure.

    A figure without a metric file (from an older version, say) is a number under its own name.
    """
    for metric in _metric_files().values():
        for info in metric.figures:
            if info.name == name:
                return info

    for metric in _metric_files().values():
        info_of_data = metric.describe(name)
        if info_of_data is not None:
            return info_of_data

    title = name.replace("_", " ")
    return MetricInfo(name=name, title=title, unit="number", meaning="", on_card=False)


def by_task_and_view(predictions: Sequence[Prediction]) -> dict[tuple[Task, str], list[Prediction]]:
    """Return the predictions by (task, view): what a metric sees at once.

    A probe goes with its first base record. Swapping a raw and a processed image changes the
    probe's own view, but not the record that it checks.
    """
    ordinary = {
        prediction.id: prediction for prediction in predictions if prediction.probe is Probe.NONE
    }

    by_key: dict[tuple[Task, str], list[Prediction]] = {}
    for prediction in predictions:
        base = ordinary.get(prediction.of[0], prediction) if prediction.of else prediction
        by_key.setdefault((base.task, base.view), []).append(prediction)

    return by_key


def _metric_files() -> dict[str, MetricFile]:
    return _read_metric_files(module_folders(__name__))


@cache
def _read_metric_files(folders: tuple[str, ...]) -> dict[str, MetricFile]:
    metrics = {
        name: read_metric_file(importlib.import_module(f"{__name__}.{name}"))
        for name in module_names(folders)
    }

    file_of: dict[str, str] = {}
    for file, metric in metrics.items():
        for info in metric.figures:
            if info.name in file_of:
                raise UserError(
                    f"metrics/{file}.py and metrics/{file_of[info.name]}.py both have a figure "
                    f"named {info.name}; rename one of them"
                )
            file_of[info.name] = file

    return metrics
