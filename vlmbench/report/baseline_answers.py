"""The answers of baselines, and of tuned runs, at thresholds that the validation records gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmbench.metrics import by_task_and_view, errors
from vlmbench.metrics._select import is_positive, positive_probabilities
from vlmbench.metrics.auroc import area
from vlmbench.report.runs import RunResult
from vlmbench.runs.baselines import BaselineDir, BaselineFacts, baseline_dir
from vlmbench.runs.folder import RunDir
from vlmbench.stats import Compared, Rule, calibrate, estimate, estimate_rate
from vlmbench.stats.estimates import Measure
from vlmbench.types import LABELS, Estimate, Prediction, Probe, Rate, Task, UserError

FIGURES = ("balanced_accuracy", "auroc", "miss_rate", "overkill_rate")

TaskView = tuple[Task, str]

EVENLY = Rule(figure=Compared.BALANCED_ACCURACY)  # both kinds of error weigh the same


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedBaseline:
    """A baseline, the runs that share its answers, and these answers by task and view."""

    facts: BaselineFacts
    folder: BaselineDir
    runs: tuple[RunResult, ...]
    answers: Mapping[TaskView, Sequence[Prediction]]
    validation: Mapping[TaskView, Sequence[Prediction]]

    @property
    def seconds(self) -> float:
        return sum(self.facts.seconds.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A baseline without answers, and the reason; `about` names the runs or the records."""

    name: str
    reason: str
    about: tuple[str, ...]


def read_baselines(
    sweep: Path, runs: Sequence[RunResult], rule: Rule
) -> tuple[list[AskedBaseline], list[LeftOut]]:
    """Return the baselines of all runs, each once, and those that are left out."""
    by_key: dict[tuple[str, str], list[RunResult]] = {}
    left_out: dict[tuple[str, str], list[str]] = {}

    for run in runs:
        for name, row in _read_rows(sweep, run, left_out).items():
            row = row if isinstance(row, dict) else {}
            if "error" in row:
                left_out.setdefault((name, str(row["error"])), []).append(run.label)
            else:
                by_key.setdefault((name, str(row.get("key", ""))), []).append(run)

    asked = []
    for (name, key), members in by_key.items():
        try:
            asked.append(_read_baseline(baseline_dir(sweep, key), members, rule))
        except UserError as error:
            labels = [run.label for run in members]
            left_out.setdefault((name, str(error)), []).extend(labels)

    for each in asked:
        for kind, reason in each.facts.errors.items():
            left_out.setdefault((each.facts.name, reason), []).append(kind)

    return asked, [
        LeftOut(
            name=name,
            reason=reason,
            about=tuple(dict.fromkeys(about)),
        )
        for (name, reason), about in left_out.items()
    ]


def _read_rows(
    sweep: Path, run: RunResult, left_out: dict[tuple[str, str], list[str]]
) -> dict[str, Any]:
    try:
        return RunDir(sweep / run.name).read_baselines()
    except UserError as error:
        left_out.setdefault(("baselines", str(error)), []).append(run.label)
        return {}


def _read_baseline(folder: BaselineDir, runs: Sequence[RunResult], rule: Rule) -> AskedBaseline:
    """Return a baseline. Raise UserError if its files cannot be trusted."""
    why = folder.damage()
    if why:
        raise UserError(f"{folder.path}: the answers cannot be trusted: {why}")

    validation = folder.read_validation()
    return AskedBaseline(
        facts=folder.read_facts(),
        folder=folder,
        runs=tuple(runs),
        answers=decide_all(validation, folder.read_predictions(), rule),
        validation=by_task_and_view([each for each in validation if has_labels(each)]),
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


def tuned_answers(
    sweep: Path, run: RunResult, kind: TaskView, rule: Rule = EVENLY
) -> list[Prediction]:
    """Return a run's ordinary predictions of a task and view, decided by `decide`."""
    predictions = run.answers(*kind)
    if not predictions or not all(map(has_labels, predictions)):
        return []

    validation = by_task_and_view(run.validation)
    return decide(validation.get(kind, []), predictions, rule)


def estimates(runs: Sequence[Sequence[Prediction]], *, seed: int) -> dict[str, Estimate]:
    """Return FIGURES with their intervals: the mean over runs that answered the same records."""
    pooled = [prediction for predictions in runs for prediction in predictions]
    numbers = [number for number, predictions in enumerate(runs) for _ in predictions]

    found = estimate(_measure_of(pooled, np.array(numbers)), pooled, seed=seed)
    rates = errors.measure(pooled)
    found |= {name: estimate_rate(rate) for name, rate in rates.items() if isinstance(rate, Rate)}

    return {
        name: replace(found[name], n=found[name].n // len(runs))
        for name in FIGURES
        if name in found
    }


def _measure_of(pooled: Sequence[Prediction], runs: NDArray[np.intp]) -> Measure:
    """Return a metric: the means over runs of balanced accuracy and AUROC.

    `runs` are the run numbers of `pooled`. Selections of `pooled` are looked up in arrays, because
    the jackknife makes one for each cluster.
    """
    slots = {id(prediction): slot for slot, prediction in enumerate(pooled)}
    positive = is_positive(pooled)
    correct = np.array([prediction.correct for prediction in pooled])
    scores = positive_probabilities(pooled)
    all_runs = np.unique(runs)

    def measure(predictions: Sequence[Prediction]) -> dict[str, float]:
        drawn = np.array([slots[id(prediction)] for prediction in predictions])
        own = [drawn[runs[drawn] == run] for run in all_runs]
        recalls = [_recall(correct[run], positive[run]) for run in own]
        areas = [None if scores is None else area(scores[run], positive[run]) for run in own]

        figures: dict[str, float] = {}
        for name, values in (("balanced_accuracy", recalls), ("auroc", areas)):
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                figures[name] = sum(known) / len(known)
        return figures

    return measure


def _recall(correct: NDArray[np.bool_], positive: NDArray[np.bool_]) -> float | None:
    """Return the mean recall of both classes; None with one class."""
    if positive.all() or not positive.any():
        return None
    return float(correct[positive].mean() + correct[~positive].mean()) / 2
