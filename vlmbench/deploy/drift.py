"""The scores of the records that are judged now, beside those that the decisions rest on."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.deploy.decide import Decider, TaskView
from vlmbench.deploy.sentences import MEASURED_ON
from vlmbench.report.drift import ScoreDrift
from vlmbench.stats.drift import find_drift
from vlmbench.types import LABELS, Judgement, Prediction


def find_drifts(
    decider: Decider, judgements: Sequence[Judgement], *, seed: int
) -> list[ScoreDrift]:
    """Return the drift of each task and view with several new parts and with earlier scores."""
    found = []
    for task_view in decider.bases:
        now = _scored(judgements, task_view)
        if len({prediction.group for prediction in now}) > 1:
            found.append(_compare(decider, task_view, now, seed=seed))
    return found


def _scored(judgements: Sequence[Judgement], task_view: TaskView) -> list[Prediction]:
    predictions = [judgement.prediction for judgement in judgements]
    return [
        one
        for one in predictions
        if one is not None and one.margin is not None and (one.task, one.view) == task_view
    ]


def _compare(
    decider: Decider, task_view: TaskView, now: Sequence[Prediction], *, seed: int
) -> ScoreDrift:
    basis, calibration = decider.bases[task_view], decider.calibrations[task_view]
    new, earlier = (
        [one.margin for one in records if one.margin is not None]
        for records in (now, basis.records)
    )
    drift = find_drift(
        new,
        earlier,
        new_parts=[one.group for one in now],
        earlier_parts=[one.cluster for one in basis.records],
        seed=seed,
    )

    task, view = task_view
    return ScoreDrift(
        title=f"{task.replace('_', ' ')}, {view}",
        positive=LABELS[task][1].replace("_", " "),
        now=tuple(calibration.score(margin) for margin in new),
        before=tuple(calibration.score(margin) for margin in earlier),
        drift=drift,
        source=MEASURED_ON[basis.source],
    )
