"""The answers of baselines, and of tuned runs, at thresholds that the validation records gave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmbench.metrics import by_task_and_view
from vlmbench.report.runs import RunResult
from vlmbench.runs.baselines import BaselineDir, BaselineFacts, HeatKey, baseline_dir
from vlmbench.runs.folder import RunDir
from vlmbench.stats import Compared, Rule, calibrate
from vlmbench.types import LABELS, Prediction, Probe, Task, UserError

TaskView = tuple[Task, str]
FoldOf = Mapping[str, int] | None  # record id -> fold; None without a cross-validation

EVENLY = Rule(figure=Compared.BALANCED_ACCURACY)  # both kinds of error weigh the same


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineFold:
    """The answers of a baseline in one fold, or all of them without a cross-validation.

    `answers` are decided, by task and view.
    """

    facts: BaselineFacts
    folder: BaselineDir
    answers: Mapping[TaskView, Sequence[Prediction]]
    validation: Mapping[TaskView, Sequence[Prediction]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedBaseline:
    """A baseline, and the runs that share its answers. Without a cross-validation it has one fold.

    `answers` are those of all folds, by task and view.
    """

    folds: tuple[BaselineFold, ...]
    runs: tuple[RunResult, ...]
    answers: Mapping[TaskView, Sequence[Prediction]]

    @property
    def name(self) -> str:
        return self.folds[0].facts.name

    @property
    def title(self) -> str:
        return self.folds[0].facts.title

    @property
    def seconds(self) -> dict[str, float]:
        """Return the seconds of each kind of work, over all folds."""
        total: Counter[str] = Counter()
        for fold in self.folds:
            total.update(fold.facts.seconds)
        return dict(total)

    @property
    def notes(self) -> dict[str, str]:
        """Return notes by task and view; with several folds, also by fold."""
        named = len(self.folds) > 1
        return {
            f"{kind}, fold {number}" if named else kind: note
            for number, fold in enumerate(self.folds)
            for kind, note in fold.facts.notes.items()
        }

    def read_heat(self) -> dict[HeatKey, NDArray[np.uint8]]:
        """Return the heat map of each record that has one; 255 is the hottest of all folds.

        Raise UserError if a file is damaged.
        """
        hottest: dict[str, float] = {}
        for fold in self.folds:
            for kind, value in fold.facts.hottest.items():
                hottest[kind] = max(value, hottest.get(kind, 0.0))

        maps: dict[HeatKey, NDArray[np.uint8]] = {}
        for fold in self.folds:
            for key, heat in fold.folder.read_heat().items():
                kind = f"{key[1]} {key[2]}"
                own, largest = fold.facts.hottest.get(kind, 0.0), hottest.get(kind, 0.0)
                maps[key] = np.rint(heat * (own / largest)).astype(np.uint8) if largest else heat
        return maps

    def read_marked(self) -> dict[HeatKey, NDArray[np.bool_]]:
        """Return the mask of each record whose defect is marked."""
        marked: dict[HeatKey, NDArray[np.bool_]] = {}
        for fold in self.folds:
            marked |= fold.folder.read_marked()
        return marked

    def fold_of(self, kind: TaskView) -> FoldOf:
        """Return the fold that tested each record of a task and view."""
        return _number_folds([fold.answers.get(kind, ()) for fold in self.folds])


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A baseline without answers, and the reason; `about` names the runs or the records."""

    name: str
    reason: str
    about: tuple[str, ...]


def read_baselines(
    sweep: Path, runs: Sequence[RunResult], rule: Rule
) -> tuple[list[AskedBaseline], list[LeftOut]]:
    """Return the baselines of all runs, each once, and those that are left out.

    The folds of a cross-validation are one run, as `pool_folds` gives it.
    """
    by_keys: dict[tuple[str, tuple[str, ...]], list[RunResult]] = {}
    left_out: dict[tuple[str, str], list[str]] = {}

    for run in runs:
        for name, keys in _keys_of(sweep, run, left_out).items():
            by_keys.setdefault((name, keys), []).append(run)

    asked = []
    for (name, keys), members in by_keys.items():
        try:
            folds = [_read_fold(baseline_dir(sweep, key), rule) for key in keys]
        except UserError as error:
            labels = [run.label for run in members]
            left_out.setdefault((name, str(error)), []).extend(labels)
        else:
            asked.append(_join_folds(folds, members))

    for each in asked:
        for fold in each.folds:
            for kind, reason in fold.facts.errors.items():
                left_out.setdefault((each.name, reason), []).append(kind)

    return asked, [
        LeftOut(
            name=name,
            reason=reason,
            about=tuple(dict.fromkeys(about)),
        )
        for (name, reason), about in left_out.items()
    ]


def _keys_of(
    sweep: Path, run: RunResult, left_out: dict[tuple[str, str], list[str]]
) -> dict[str, tuple[str, ...]]:
    """Return the keys of each baseline's answers, one for each fold of a run."""
    found: dict[str, list[str]] = {}
    folds = run.folds or (run,)
    for fold in folds:
        for name, row in _read_rows(sweep, fold, left_out).items():
            row = row if isinstance(row, dict) else {}
            if "error" in row:
                left_out.setdefault((name, str(row["error"])), []).append(fold.label)
            else:
                found.setdefault(name, []).append(str(row.get("key", "")))

    whole = {name: tuple(keys) for name, keys in found.items() if len(keys) == len(folds)}
    for name in found.keys() - whole.keys():
        reason = f"{len(found[name])} of {len(folds)} folds have answers of it"
        left_out.setdefault((name, reason), []).append(run.label)
    return whole


def _read_rows(
    sweep: Path, run: RunResult, left_out: dict[tuple[str, str], list[str]]
) -> dict[str, Any]:
    try:
        return RunDir(sweep / run.name).read_baselines()
    except UserError as error:
        left_out.setdefault(("baselines", str(error)), []).append(run.label)
        return {}


def _read_fold(folder: BaselineDir, rule: Rule) -> BaselineFold:
    """Return a baseline's answers. Raise UserError if its files cannot be trusted."""
    why = folder.damage()
    if why:
        raise UserError(f"{folder.path}: the answers cannot be trusted: {why}")

    validation = folder.read_validation()
    return BaselineFold(
        facts=folder.read_facts(),
        folder=folder,
        answers=decide_all(validation, folder.read_predictions(), rule),
        validation=by_task_and_view([each for each in validation if has_labels(each)]),
    )


def _join_folds(folds: Sequence[BaselineFold], runs: Sequence[RunResult]) -> AskedBaseline:
    """Return the folds as one baseline. A task and view without answers in a fold is left out."""
    kinds = [kind for kind in folds[0].answers if all(kind in fold.answers for fold in folds)]
    return AskedBaseline(
        folds=tuple(folds),
        runs=tuple(runs),
        answers={kind: [each for fold in folds for each in fold.answers[kind]] for kind in kinds},
    )


def decide_all(
    validation: Sequence[Prediction], predictions: Sequence[Prediction], rule: Rule = EVENLY
) -> dict[TaskView, list[Prediction]]:
    """Return the ordinary predictions by task and view, decided by `decide`."""
    fitted_on = by_task_and_view(validation)
    ordinary = [each for each in predictions if each.probe is Probe.NONE and has_labels(each)]
    return {
        kind: decide(fitted_on.get(kind, []), members, rule)
        for kind, members in by_task_and_view(ordinary).items()
    }


def has_labels(prediction: Prediction) -> bool:
    """Return whether the truth and the scores have the two labels of the task.

    A file may hold anything. An answer that was generated as text has no scores.
    """
    labels = set(LABELS.get(prediction.task, ()))
    has_scores = not prediction.scores or labels <= prediction.scores.keys()
    return prediction.expected in labels and has_scores


def decide(
    validation: Sequence[Prediction], predictions: Sequence[Prediction], rule: Rule = EVENLY
) -> list[Prediction]:
    """Return predictions of one task and view with the labels of the calibrated threshold.

    The threshold is the best for the figure of `rule`. Without enough validation records, or
    without scores, the labels stay.
    """
    try:
        calibration = calibrate([each for each in validation if has_labels(each)])
    except UserError:
        return list(predictions)

    decided = []
    for prediction in predictions:
        if prediction.margin is not None:
            is_positive = rule.is_positive(prediction.margin, calibration)
            label = LABELS[prediction.task][int(is_positive)]
            prediction = replace(prediction, predicted=label)
        decided.append(prediction)
    return decided


def _number_folds(folds: Sequence[Sequence[Prediction]]) -> FoldOf:
    if len(folds) < 2:
        return None
    return {each.id: number for number, fold in enumerate(folds) for each in fold}


def tuned_folds(run: RunResult, kind: TaskView) -> FoldOf:
    """Return the fold that tested each record of a run."""
    return _number_folds([fold.answers(*kind) for fold in run.folds])


def tuned_answers(run: RunResult, kind: TaskView, rule: Rule = EVENLY) -> list[Prediction]:
    """Return a run's ordinary predictions of a task and view, decided by `decide`.

    Each fold has a threshold of its own.
    """
    if run.folds:
        folds = [tuned_answers(fold, kind, rule) for fold in run.folds]
        return [each for fold in folds for each in fold] if all(folds) else []

    predictions = run.answers(*kind)
    if not predictions or not all(map(has_labels, predictions)):
        return []

    validation = by_task_and_view(run.validation)
    return decide(validation.get(kind, []), predictions, rule)
