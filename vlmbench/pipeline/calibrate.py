"""Calibration of a run's scores on its validation records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from vlmbench.data.run_records import RunRecords
from vlmbench.metrics import by_task_and_view
from vlmbench.pipeline.run import Run
from vlmbench.runs.folder import RunDir
from vlmbench.stats import calibrate
from vlmbench.types import Prediction, UserError


def mark_followed(
    predictions: Sequence[Prediction], run: Run, records: RunRecords
) -> list[Prediction]:
    """Return validation predictions that tell whether training followed a record of their cluster.

    Figures of followed records are too good: they chose the checkpoint.
    """
    follows = run.config.trainer.eval_steps is not None
    monitored = {(each.task, each.group) for each in records.monitored} if follows else set()
    clusters = {records.data.component(task, group) or group for task, group in monitored}
    return [replace(each, followed=each.cluster in clusters) for each in predictions]


def write_calibration(folder: RunDir, predictions: Sequence[Prediction]) -> None:
    """Write the validation predictions, and for each task and view a calibration.

    If there can be none, its `error` says why.
    """
    calibrations: dict[str, dict[str, dict[str, Any]]] = {}
    for (task, view), subset in by_task_and_view(predictions).items():
        try:
            numbers = asdict(calibrate(subset))
        except UserError as error:
            numbers = {"error": str(error)}
        calibrations.setdefault(str(task), {})[view] = numbers

    folder.write_validation(predictions)
    folder.write_calibration(calibrations)
