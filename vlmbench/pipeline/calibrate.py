"""Calibration of a run's scores on its validation records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vlmbench.metrics import by_task_and_view
from vlmbench.runs.folder import RunDir
from vlmbench.stats import calibrate
from vlmbench.types import Prediction, UserError


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
