"""From a finished run's scores to calibrated scores and decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from vlmbench.config import DeployConfig
from vlmbench.deploy.sentences import MEASURED_ON, basis_notes, cost_notes, promise_note, rule_note
from vlmbench.metrics import by_task_and_view
from vlmbench.runs.folder import RunDir
from vlmbench.stats import (
    Basis,
    Calibration,
    Promise,
    Rule,
    Threshold,
    cheapest_threshold,
    find_basis,
    promise,
    rule_of,
)
from vlmbench.types import LABELS, LOOK, Judgement, Prediction, Record, Task, UserError

TaskView = tuple[Task, str]

# The model's own probability: what a score is without a calibration.
UNCALIBRATED = Calibration(
    slope=1,
    intercept=0,
    n=0,
    n_parts=0,
    n_positive=0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decider:
    """Calibrations, thresholds and promises by task and view.

    `bases` are the records that decisions are measured on. `missing` says why a task and view has
    no calibration. `settings` are those of the stage. `rule` is the run's own: it decides by
    calibrated scores where neither costs nor promises do. `joined` says in words which records each
    answer joins, "" for single records.
    """

    calibrations: Mapping[TaskView, Calibration]
    bases: Mapping[TaskView, Basis]
    thresholds: Mapping[TaskView, Threshold]
    promises: Mapping[TaskView, Promise]
    missing: Mapping[TaskView, str]
    settings: DeployConfig
    rule: Rule
    joined: str = ""

    def require(self, kinds: Iterable[TaskView]) -> None:
        """Raise UserError if the settings ask for more than scores without a calibration."""
        asked = ("cost_miss", "max_miss", "prevalence")
        names = [name for name in asked if getattr(self.settings, name) is not None]
        if not names:
            return

        for task, view in dict.fromkeys(kinds):
            calibration = self.calibrations.get((task, view))
            if calibration is None or calibration.why_rough:
                setting = self.settings.setting_name(names[0])
                of = self.joined and f" ({self.joined})"
                has = "has none" if calibration is None else "has rough ones"
                why = calibration.why_rough if calibration else self.why_missing(task, view)
                raise UserError(
                    f"{setting} needs calibrated scores, and {task} in view {view}{of} {has}: "
                    f"{why}; leave {setting} out, and the run's own rule decides"
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
        given = self.promises.get(task_view)
        band: tuple[float, float] | None = None
        if given is not None:
            band = self._band(given, calibration)
            limit = sum(band) / 2
            index = given.label(prediction.margin)
            decision: str | None = LOOK if index is None else LABELS[record.task][index]
        elif threshold is not None:
            limit = threshold.value
            decision = LABELS[record.task][int(score > limit)]
        elif task_view in self.calibrations:
            limit = self.rule.limit_score(calibration, prevalence)
            is_positive = self.rule.is_positive(prediction.margin, calibration)
            decision = LABELS[record.task][int(is_positive)]
        else:
            limit = calibration.score(0.0, prevalence)
            decision = prediction.predicted

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
            look_from=None if band is None else band[0],
            look_to=None if band is None else band[1],
        )

    def _band(self, given: Promise, calibration: Calibration) -> tuple[float, float]:
        """Return the calibrated scores between which the answer is "look at it"."""
        prevalence = self.settings.prevalence
        return (
            calibration.score(given.pass_below, prevalence),
            calibration.score(given.stop_above, prevalence),
        )

    def notes(self, kinds: Iterable[TaskView]) -> list[str]:
        """Return what a reader must know about scores and thresholds, a sentence each."""
        return [note for kind in dict.fromkeys(kinds) for note in self._notes(kind)]

    def _notes(self, kind: TaskView) -> Iterator[str]:
        title = f"{kind[0].replace('_', ' ')}, {kind[1]}{self.joined and ', '}{self.joined}"
        threshold = self.thresholds.get(kind)

        if kind in self.calibrations:
            yield from self._calibration_notes(title, kind)
        else:
            why = self.why_missing(*kind)
            yield f"{title}: scores are the model's own, not calibrated: {why}"

        figures = "misses, overkill and log loss"
        if kind in self.promises:
            figures = "the log loss"
            yield promise_note(title, self.promises[kind])
        elif threshold is not None:
            figures = f"cost, {figures}"
            yield from cost_notes(title, threshold)
        elif kind in self.calibrations:
            basis, calibration = self.bases[kind], self.calibrations[kind]
            yield rule_note(title, basis, calibration, self.rule, self.settings.prevalence)
        else:
            yield (
                f"{title}: the likelier label decides (0.5 of the model's own probability), "
                "as in all metrics"
            )
        if kind in self.bases:
            yield from basis_notes(title, self.bases[kind], figures)

    def _calibration_notes(self, title: str, kind: TaskView) -> Iterator[str]:
        calibration, basis = self.calibrations[kind], self.bases[kind]
        positive = LABELS[kind[0]][1]
        if calibration.n_planted:
            yield (
                f"{title}: {calibration.n_planted} of the {calibration.n_positive} {positive} "
                "validation records have planted defects, so scores and thresholds fit these. "
                "Real defects may score lower, and be missed"
            )
        yield (
            f"{title}: scores are calibrated (Platt) on {calibration.n} validation records of "
            f"{calibration.n_parts} parts, {calibration.n_positive} of them {positive}; "
            f"log loss {basis.log_loss:.3f} on {len(basis.records)} {MEASURED_ON[basis.source]} "
            f"of {basis.n_parts} parts that the fit did not see, "
            f"{basis.log_loss_before:.3f} before calibration"
        )
        if self.settings.prevalence is not None:
            percent = 100 * self.settings.prevalence
            yield f"{title}: scores assume that {percent:g} % of the parts are {positive}"
        if calibration.why_rough:
            yield (
                f"{title}: so few parts give a rough threshold; add parts, or raise data.split.val "
                "and train again"
            )
        if calibration.is_blind:
            yield (
                f"{title}: the model ranks validation records no better than chance; "
                "all scores are equal"
            )


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

    bases = find_bases(folder, calibrations)
    return Decider(
        calibrations=calibrations,
        bases=bases,
        thresholds=find_thresholds(bases, settings, calibrations, seed=seed),
        promises=make_promises(bases, settings),
        missing=missing,
        settings=settings,
        rule=rule_of(folder.read_config()),
    )


def find_bases(
    folder: RunDir,
    calibrations: Mapping[TaskView, Calibration],
    *,
    join: Callable[[Sequence[Prediction]], list[Prediction]] = list,
) -> dict[TaskView, Basis]:
    """Return the records that decisions are measured on, each task and view's joined by `join`."""
    test = None if folder.is_sealed else by_task_and_view(folder.read_predictions())
    validation = by_task_and_view(folder.read_validation())
    checkpoints = len(folder.validation_curve())

    bases: dict[TaskView, Basis] = {}
    for kind, calibration in calibrations.items():
        tested = None if test is None else join(test.get(kind, ()))
        try:
            bases[kind] = find_basis(
                tested, join(validation.get(kind, ())), calibration, checkpoints=checkpoints
            )
        except UserError as error:
            raise UserError(
                f"{folder.path}/validation.jsonl does not go with calibration.json: {error}; "
                "or evaluate the run again (its own command with stage=evaluate)"
            ) from error
    return bases


def find_thresholds(
    bases: Mapping[TaskView, Basis],
    settings: DeployConfig,
    calibrations: Mapping[TaskView, Calibration],
    *,
    seed: int,
) -> dict[TaskView, Threshold]:
    """Return the thresholds of least cost; {} without costs."""
    if settings.cost_miss is None or settings.cost_overkill is None:
        return {}

    return {
        kind: cheapest_threshold(
            bases[kind],
            calibration,
            cost_miss=settings.cost_miss,
            cost_overkill=settings.cost_overkill,
            prevalence=settings.prevalence,
            seed=seed,
        )
        for kind, calibration in calibrations.items()
    }


def make_promises(
    bases: Mapping[TaskView, Basis], settings: DeployConfig
) -> dict[TaskView, Promise]:
    """Return the promises; {} without promised rates. Raise UserError for too few parts."""
    if settings.max_miss is None or settings.max_overkill is None:
        return {}

    promises: dict[TaskView, Promise] = {}
    for (task, view), basis in bases.items():
        try:
            promises[task, view] = promise(
                basis, max_miss=settings.max_miss, max_overkill=settings.max_overkill
            )
        except UserError as error:
            names = settings.setting_name("max_miss"), settings.setting_name("max_overkill")
            raise UserError(
                f"{names[0]}={settings.max_miss:g} {names[1]}={settings.max_overkill:g}: {task} in "
                f"view {view}: {error}; or leave both settings out"
            ) from error
    return promises


def _read_calibration(folder: RunDir, numbers: Mapping[str, Any]) -> Calibration:
    try:
        return msgspec.convert(numbers, Calibration)
    except msgspec.ValidationError as error:
        raise UserError(
            f"{folder.path}/calibration.json: {error}; "
            "evaluate the run again (its own command with stage=evaluate)"
        ) from error
