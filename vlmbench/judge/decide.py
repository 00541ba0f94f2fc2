"""How a finished run's scores become calibrated scores and decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from vlmbench.config import JudgeConfig
from vlmbench.metrics import by_task_and_view
from vlmbench.rundir import RunDir
from vlmbench.stats import Calibration, Threshold, calibrate, cheapest_threshold
from vlmbench.types import LABELS, Judgement, Prediction, Record, Task, UserError

Kind = tuple[Task, str]  # task and view
# The model's own probability, where there is no calibration.
UNCHANGED = Calibration(slope=1, intercept=0, n=0, n_groups=0, n_positive=0, log_loss=0, log_loss_before=0)


def write_calibration(folder: RunDir, predictions: Sequence[Prediction]) -> None:
    """Keep a run's answers to validation records, and a calibration of each task and view, or why there is none."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (task, view), some in by_task_and_view(predictions).items():
        try:
            numbers = asdict(calibrate(some))
        except UserError as error:
            numbers = {"error": str(error)}
        found.setdefault(str(task), {})[view] = numbers
    folder.write_validation(predictions)
    folder.write_calibration(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decider:
    """Calibrations and thresholds by task and view; `missing` says why one has none."""

    calibrations: Mapping[Kind, Calibration]
    thresholds: Mapping[Kind, Threshold]
    missing: Mapping[Kind, str]
    prevalence: float | None
    by_cost: bool

    def require(self, kinds: Iterable[Kind]) -> None:
        """Raise UserError where costs or a prevalence were given, and one of the tasks and views is not calibrated."""
        given = [name for name, asked in (("cost_miss", self.by_cost), ("prevalence", self.prevalence)) if asked]
        for task, view in dict.fromkeys(kinds):
            if given and (task, view) not in self.calibrations:
                raise UserError(
                    f"judge.{given[0]}: it takes calibrated scores, and for {task} in view {view} there are none: "
                    f"{self.why(task, view)}; leave the setting out, and the likelier label decides"
                )

    def why(self, task: Task, view: str) -> str:
        """Why scores of this task and view are not calibrated."""
        unknown = "the run has no validation answers to it; evaluate it again (its own command with stage=evaluate)"
        return self.missing.get((task, view), unknown)

    def decide(self, record: Record, prediction: Prediction, sentence: str | None) -> Judgement:
        """What is said of a record that has scores."""
        kind = (record.task, record.view)
        calibration, threshold = self.calibrations.get(kind, UNCHANGED), self.thresholds.get(kind)
        if prediction.margin is None:
            raise ValueError(f"{record.id}: a decision takes scores")
        score, even = (calibration.score(margin, self.prevalence) for margin in (prediction.margin, 0.0))
        decision, line = prediction.predicted, even
        if threshold is not None:
            line = threshold.value
            decision = LABELS[record.task][int(score > line)]
        return Judgement(
            id=record.id,
            task=record.task,
            images=tuple(str(image.path) for image in record.images),
            prediction=prediction,
            score=score,
            calibrated=kind in self.calibrations,
            threshold=line,
            decision=decision,
            sentence=sentence,
        )

    def notes(self, kinds: Iterable[Kind]) -> list[str]:
        """What has to be said of scores and thresholds, a sentence each."""
        return [note for kind in dict.fromkeys(kinds) for note in self._notes(kind)]

    def _notes(self, kind: Kind) -> Iterable[str]:
        place = f"{kind[0].replace('_', ' ')}, {kind[1]}"
        calibration, threshold = self.calibrations.get(kind), self.thresholds.get(kind)
        if calibration is None:
            yield f"{place}: scores are the model's own, not calibrated: {self.why(*kind)}"
        else:
            yield (
                f"{place}: scores are calibrated (Platt) on {calibration.n} validation records of "
                f"{calibration.n_groups} parts, {calibration.n_positive} of them {LABELS[kind[0]][1]}; log loss "
                f"{calibration.log_loss:.3f} on parts it did not see, {calibration.log_loss_before:.3f} before"
            )
            if self.prevalence is not None:
                yield f"{place}: scores are for where {100 * self.prevalence:g} % are {LABELS[kind[0]][1]}"
            if calibration.is_blind:
                yield f"{place}: the model ranks validation records no better than chance; all score alike"
        if threshold is None:
            yield f"{place}: the likelier label decides (0.5 of the model's own probability), as in all metrics"
        else:
            yield from _costs(place, threshold)


def _costs(place: str, threshold: Threshold) -> Iterable[str]:
    cost, miss, overkill = threshold.cost, threshold.miss_rate, threshold.overkill_rate
    yield (
        f"{place}: the threshold is {threshold.value:.3g}; expected cost {cost.value:.3g} a record (95 % "
        f"interval {cost.low:.3g} to {cost.high:.3g}, n = {cost.n} of {cost.n_groups} parts), "
        f"missed {_rate(miss)}, overkill {_rate(overkill)}"
    )
    if not threshold.told:
        yield (
            f"{place}: the validation side is too small, or the model too weak, to tell this threshold's cost from "
            f"that of a rule without a model: {threshold.one} costs {threshold.cost_of_one:.3g} a record"
        )


def _rate(estimate: Any) -> str:
    return (
        f"{100 * estimate.value:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f} %, "
        f"n = {estimate.n} of {estimate.n_groups} parts)"
    )


def _read(folder: RunDir, numbers: Mapping[str, Any]) -> Calibration:
    try:
        return msgspec.convert(numbers, Calibration)
    except msgspec.ValidationError as error:
        raise UserError(f"{folder.path}/calibration.json: {error}; evaluate the run again") from error


def decider_of(folder: RunDir, settings: JudgeConfig, *, seed: int) -> Decider:
    """The calibrations of a run and, where `settings` has costs, a threshold for each of them."""
    calibrations: dict[Kind, Calibration] = {}
    missing: dict[Kind, str] = {}
    for task, views in folder.read_calibration().items():
        for view, numbers in views.items():
            if "error" in numbers:
                missing[Task(task), view] = str(numbers["error"])
            else:
                calibrations[Task(task), view] = _read(folder, numbers)
    thresholds: dict[Kind, Threshold] = {}
    if settings.cost_miss is not None and settings.cost_overkill is not None:
        parts = by_task_and_view(folder.read_validation())
        for kind, calibration in calibrations.items():
            thresholds[kind] = cheapest_threshold(
                parts[kind],
                calibration,
                cost_miss=settings.cost_miss,
                cost_overkill=settings.cost_overkill,
                prevalence=settings.prevalence,
                seed=seed,
            )
    return Decider(
        calibrations=calibrations,
        thresholds=thresholds,
        missing=missing,
        prevalence=settings.prevalence,
        by_cost=settings.cost_miss is not None,
    )
