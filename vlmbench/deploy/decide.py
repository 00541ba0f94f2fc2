"""From a finished run's scores to calibrated scores and decisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from vlmbench.config import DeployConfig
from vlmbench.metrics import by_task_and_view
from vlmbench.runs.folder import RunDir
from vlmbench.stats import Calibration, Threshold, cheapest_threshold
from vlmbench.types import LABELS, Estimate, Judgement, Prediction, Record, Task, UserError

TaskView = tuple[Task, str]

# The model's own probability: what a score is without a calibration.
UNCALIBRATED = Calibration(
    slope=1, intercept=0, n=0, n_parts=0, n_positive=0, log_loss=0, log_loss_before=0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decider:
    """Calibrations and thresholds by task and view.

    `missing` says why a task and view has no calibration. `settings` are those of the stage.
    """

    calibrations: Mapping[TaskView, Calibration]
    thresholds: Mapping[TaskView, Threshold]
    missing: Mapping[TaskView, str]
    settings: DeployConfig

    def require(self, kinds: Iterable[TaskView]) -> None:
        """Raise UserError if costs or a prevalence are set for scores without a calibration."""
        names = [
            name for name in ("cost_miss", "prevalence") if getattr(self.settings, name) is not None
        ]
        if not names:
            return

        for task, view in dict.fromkeys(kinds):
            if (task, view) not in self.calibrations:
                setting = self.settings.setting_name(names[0])
                raise UserError(
                    f"{setting} needs calibrated scores, and {task} in view {view} has none: "
                    f"{self.why_missing(task, view)}; leave {setting} out, "
                    "and the likelier label decides"
                )

    def why_missing(self, task: Task, view: str) -> str:
        """Return why scores of this task and view are not calibrated."""
        unknown = (
            "the run answered no validation record of it; "
            "evaluate it again (its own command with stage=evaluate)"
        )
        return self.missing.get((task, view), unknown)

    def decide(self, record: Record, prediction: Prediction, sentence: str | None) -> Judgement:
        """Return the judgement of a record that has scores."""
        if prediction.margin is None:
            raise ValueError(f"{record.id}: a decision needs scores")
        task_view = (record.task, record.view)
        calibration = self.calibrations.get(task_view, UNCALIBRATED)
        threshold = self.thresholds.get(task_view)
        prevalence = self.settings.prevalence

        score = calibration.score(prediction.margin, prevalence)
        if threshold is None:
            limit = calibration.score(0.0, prevalence)
            decision = prediction.predicted
        else:
            limit = threshold.value
            decision = LABELS[record.task][int(score > limit)]

        return Judgement(
            id=record.id,
            task=record.task,
            images=tuple(str(image.path) for image in record.images),
            prediction=prediction,
            score=score,
            calibrated=task_view in self.calibrations,
            threshold=limit,
            decision=decision,
            sentence=sentence,
        )

    def notes(self, kinds: Iterable[TaskView]) -> list[str]:
        """Return what a reader must know about scores and thresholds, a sentence each."""
        return [note for kind in dict.fromkeys(kinds) for note in self._notes(kind)]

    def _notes(self, kind: TaskView) -> Iterator[str]:
        title = f"{kind[0].replace('_', ' ')}, {kind[1]}"
        positive = LABELS[kind[0]][1]
        calibration, threshold = self.calibrations.get(kind), self.thresholds.get(kind)

        if calibration is None:
            why = self.why_missing(*kind)
            yield f"{title}: scores are the model's own, not calibrated: {why}"
        else:
            yield (
                f"{title}: scores are calibrated (Platt) on {calibration.n} validation records of "
                f"{calibration.n_parts} parts, {calibration.n_positive} of them {positive}; "
                f"log loss {calibration.log_loss:.3f} on parts that the fit did not see, "
                f"{calibration.log_loss_before:.3f} before calibration"
            )
            if self.settings.prevalence is not None:
                percent = 100 * self.settings.prevalence
                yield f"{title}: scores assume that {percent:g} % of the parts are {positive}"
            if calibration.is_blind:
                yield (
                    f"{title}: the model ranks validation records no better than chance; "
                    "all scores are equal"
                )

        if threshold is None:
            yield (
                f"{title}: the likelier label decides (0.5 of the model's own probability), "
                "as in all metrics"
            )
        else:
            yield from _cost_notes(title, threshold)


def load_decider(folder: RunDir, settings: DeployConfig, *, seed: int) -> Decider:
    """Return the calibrations of a run, and with costs a threshold for each of them."""
    calibrations: dict[TaskView, Calibration] = {}
    missing: dict[TaskView, str] = {}
    for task, views in folder.read_calibration().items():
        for view, numbers in views.items():
            if "error" in numbers:
                missing[Task(task), view] = str(numbers["error"])
            else:
                calibrations[Task(task), view] = _read_calibration(folder, numbers)

    return Decider(
        calibrations=calibrations,
        thresholds=_find_thresholds(folder, settings, calibrations, seed=seed),
        missing=missing,
        settings=settings,
    )


def _find_thresholds(
    folder: RunDir,
    settings: DeployConfig,
    calibrations: Mapping[TaskView, Calibration],
    *,
    seed: int,
) -> dict[TaskView, Threshold]:
    if settings.cost_miss is None or settings.cost_overkill is None:
        return {}

    predictions = by_task_and_view(folder.read_validation())
    return {
        kind: cheapest_threshold(
            predictions[kind],
            calibration,
            cost_miss=settings.cost_miss,
            cost_overkill=settings.cost_overkill,
            prevalence=settings.prevalence,
            seed=seed,
        )
        for kind, calibration in calibrations.items()
    }


def _read_calibration(folder: RunDir, numbers: Mapping[str, Any]) -> Calibration:
    try:
        return msgspec.convert(numbers, Calibration)
    except msgspec.ValidationError as error:
        raise UserError(
            f"{folder.path}/calibration.json: {error}; "
            "evaluate the run again (its own command with stage=evaluate)"
        ) from error


def _cost_notes(title: str, threshold: Threshold) -> Iterator[str]:
    cost = threshold.cost
    yield (
        f"{title}: the threshold is {threshold.value:.3g}; the expected cost is {cost.value:.3g} a "
        f"record (95 % interval {cost.low:.3g} to {cost.high:.3g}, "
        f"n = {cost.n} of {cost.n_parts} parts), "
        f"misses {_percent(threshold.miss_rate)}, overkill {_percent(threshold.overkill_rate)}"
    )
    if not threshold.is_cheaper:
        yield (
            f"{title}: this cost cannot be told apart from that of a rule without a model: "
            f"{threshold.rule_without_model} costs {threshold.cost_without_model:.3g} a record. "
            "The validation split is too small, or the model too weak"
        )


def _percent(estimate: Estimate) -> str:
    return (
        f"{100 * estimate.value:.1f} % "
        f"({100 * estimate.low:.1f} to {100 * estimate.high:.1f} %, "
        f"n = {estimate.n} of {estimate.n_parts} parts)"
    )
