"""The decisions of a series as arrays: its labels at the calibrated threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlmbench.metrics import by_task_and_view
from vlmbench.report.figures import list_names
from vlmbench.report.runs import RunResult
from vlmbench.stats import Calibration, Compared, Decided, Redrawn, Rule, redraw
from vlmbench.stats.clusters import Floats
from vlmbench.types import JUDGING, LABELS, Prediction, Task, UserError

NO_LABEL = "nothing that names a label"
NO_MISSES = (
    "the test split has no abnormal record, so misses are unknown, and nothing is judged better by "
    "overkill alone; add photos that are abnormal"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """The decisions of an arm on the same ordinary records, one row for each seed.

    `right` is 1 where the decision is the true label, else 0: (seeds, n). `scores` rise with the
    positive label: (seeds, n), or None without scores. `positive` and `clusters` are (n).
    `redrawn` are thresholds with other validation parts; None without a calibration, and with
    folds, whose spread holds them.
    `one_label` has (run, label) for each run that gave one label to everything.
    `uncalibrated` says why labels are the model's own; "" if they are calibrated. `folds` is the
    fold that tested each record, (n), or None without a cross-validation.
    """

    ids: tuple[str, ...]
    right: Floats
    scores: Floats | None
    positive: NDArray[np.bool_]
    clusters: tuple[str, ...]
    one_label: tuple[tuple[str, str], ...]
    uncalibrated: str
    folds: tuple[int, ...] | None = None
    redrawn: Redrawn | None = None

    def outcomes(self, figure: Compared) -> Floats | Decided:
        """Return what `vlmbench.stats.compare` takes. Raise UserError where there are no scores."""
        if figure is not Compared.AUROC:
            if self.redrawn is None or self.scores is None:
                return self.right
            return self.redrawn.decide(self.right, self.scores, self.positive)
        if self.scores is None:
            raise UserError("AUROC needs scores; set eval.method=score and evaluate the runs again")
        return self.scores


def answers_of(runs: Sequence[RunResult], task: Task, view: str, rule: Rule) -> Answers:
    """Return the answers of the runs of one arm.

    Raise UserError if there are none, if the runs answered different records, or if the records to
    judge are all normal.
    """
    tables = [{each.id: each for each in run.answers(task, view)} for run in runs]
    ids = tuple(dict.fromkeys(record for table in tables for record in table))
    if not ids:
        raise UserError("there are no records to compare; evaluate both runs on held-out records")
    for record in ids:
        if not all(record in table for table in tables):
            raise UserError(
                f"record '{record}' was predicted by some of the compared runs but not by all; "
                "evaluate them on the same held-out records"
            )

    rows = [[table[record] for record in ids] for table in tables]
    labels = [decide(row, run, rule) for run, row in zip(runs, rows, strict=True)]
    expected = np.array([each.expected for each in rows[0]])
    positive = expected == LABELS[task][1]
    if task in JUDGING and not positive.any():
        raise UserError(NO_MISSES)

    right = np.array([np.array(row) == expected for row in labels], dtype=np.float64)
    reasons = {reason for run in runs if (reason := why_uncalibrated(run, task, view))}

    return Answers(
        ids=ids,
        right=right,
        scores=_scores(rows),
        positive=positive,
        clusters=tuple(each.cluster for each in rows[0]),
        one_label=tuple(
            (run.label, next(iter(row)) or NO_LABEL)
            for run, row in zip(runs, map(set, labels), strict=True)
            if len(row) == 1
        ),
        uncalibrated="; ".join(sorted(reasons)),
        folds=_folds(runs, task, view, ids),
        redrawn=None if any(run.folds for run in runs) else _redraw(runs, task, view, rule),
    )


def _redraw(runs: Sequence[RunResult], task: Task, view: str, rule: Rule) -> Redrawn | None:
    if any(calibration_of(run, task, view) is None for run in runs):
        return None
    validation = [by_task_and_view(run.validation).get((task, view), []) for run in runs]
    return redraw(validation, rule)


def _folds(
    runs: Sequence[RunResult], task: Task, view: str, ids: Sequence[str]
) -> tuple[int, ...] | None:
    """Return the fold of each record. Raise UserError if runs tested it in different folds."""
    found: set[tuple[int, ...] | None] = set()
    for run in runs:
        fold_of = {
            each.id: number
            for number, fold in enumerate(run.folds)
            for each in fold.answers(task, view)
        }
        found.add(tuple(fold_of[record] for record in ids) if run.folds else None)

    if len(found) > 1:
        raise UserError(
            "the compared runs tested the same parts in different folds; give all of them the same "
            "data.folds, data.split_seed and data.allow_leak"
        )
    return found.pop()


def decide(row: Sequence[Prediction], run: RunResult, rule: Rule) -> list[str | None]:
    """Return the label of each record at the run's calibrated threshold, or the model's own.

    Each fold has a model, and so a threshold, of its own.
    """
    if run.folds:
        return _decide_by_fold(row, run, rule)

    numbers = calibration_of(run, row[0].task, row[0].view)
    margins = [margin_of(each) for each in row]
    if numbers is None or any(margin is None for margin in margins):
        return [each.predicted for each in row]

    labels = LABELS[row[0].task]
    return [labels[int(rule.is_positive(margin or 0.0, numbers))] for margin in margins]


def _decide_by_fold(row: Sequence[Prediction], run: RunResult, rule: Rule) -> list[str | None]:
    labels: dict[str, str | None] = {}
    wanted = {each.id for each in row}
    for fold in run.folds:
        answers = fold.answers(row[0].task, row[0].view)
        own = [each for each in answers if each.id in wanted]
        if own:
            labels |= zip((each.id for each in own), decide(own, fold, rule), strict=True)
    return [labels[each.id] for each in row]


def calibration_of(run: RunResult, task: Task, view: str) -> Calibration | None:
    """Return a run's calibration, if it has one.

    The file may come from strangers: numbers that cannot be used count as none.
    """
    views = run.calibration.get(str(task))
    numbers = views.get(view) if isinstance(views, Mapping) else None
    try:
        found = msgspec.convert(numbers, Calibration)
    except msgspec.ValidationError:
        return None

    is_finite = math.isfinite(found.slope) and math.isfinite(found.intercept)
    return found if is_finite and 0 < found.n_positive < found.n else None


def why_uncalibrated(run: RunResult, task: Task, view: str) -> str:
    """Return why decisions of a run are the model's own; "" where they are calibrated."""
    if run.folds:
        reasons = {why_uncalibrated(fold, task, view) for fold in run.folds}
        return "; ".join(sorted(reasons - {""}))
    if calibration_of(run, task, view) is not None:
        return ""

    views = run.calibration.get(str(task))
    numbers = views.get(view) if isinstance(views, Mapping) else None
    reason = numbers.get("error") if isinstance(numbers, Mapping) else None
    return str(reason) if reason else "the run has no calibration of these records"


def one_label_sentences(given: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return a sentence for each label, with the runs that gave it to everything."""
    runs_of: dict[str, list[str]] = {}
    for run, label in given:
        runs_of.setdefault(label, []).append(run)

    return tuple(
        f"{list_names(runs)} {'says' if len(runs) == 1 else 'say'} {label} to every record"
        for label, runs in runs_of.items()
    )


def margin_of(prediction: Prediction) -> float | None:
    """Return the margin; None where a file from strangers has other labels, or no numbers."""
    if any(label not in prediction.scores for label in LABELS.get(prediction.task, ())):
        return None

    margin = prediction.margin
    return margin if margin is not None and math.isfinite(margin) else None


def _scores(rows: Sequence[Sequence[Prediction]]) -> Floats | None:
    margins = [[margin_of(each) for each in row] for row in rows]
    if any(margin is None for row in margins for margin in row):
        return None
    return np.array(margins, dtype=np.float64)
