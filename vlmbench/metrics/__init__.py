"""Figures of merit, one metric a file: predictions of one task and one view -> named figures.

A metric is a module with one public function, `measure(predictions) -> dict[str, Rate | float]`: a `Rate` where the
figure is a share of records; a `Difference` where it is one of two shares; elsewhere a float from 0 to 1; `{}` where
the metric does not apply. Floats rest on the records of the Rates beside them, or else on the ordinary records, and
probes that they join with a base record have its group.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence

from vlmbench.types import Prediction, Probe, Rate, Task

Measure = Callable[[Sequence[Prediction]], dict[str, Rate | float]]


def all_metrics() -> dict[str, Measure]:
    """Every metric by the name of its module, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}").measure for name in names}


def by_task_and_view(predictions: Sequence[Prediction]) -> dict[tuple[Task, str], list[Prediction]]:
    """The predictions that a metric sees at once.

    A probe goes where the first of its base records goes: swapping a raw and a processed picture changes the probe's
    own view, not what it is a control of.
    """
    ordinary = {prediction.id: prediction for prediction in predictions if prediction.probe is Probe.NONE}
    parts: dict[tuple[Task, str], list[Prediction]] = {}
    for prediction in predictions:
        place = ordinary.get(prediction.of[0], prediction) if prediction.of else prediction
        parts.setdefault((place.task, place.view), []).append(prediction)
    return parts
