"""The decisions of a series as arrays: its labels at the calibrated threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmbench.report.runs import RunResult
from vlmbench.stats import Compared, Costs
from vlmbench.stats.clusters import Floats
from vlmbench.types import JUDGING, LABELS, Prediction, Task, UserError

NO_MISSES = (
    "the test split has no abnormal record, so misses are unknown, and nothing is judged better by "
    "overkill alone; add photos that are abnormal"
)
EVEN = 0.5  # balanced accuracy weighs both labels alike, as if half of the records were positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Platt:
    """The part of a calibration that decides; `base_rate` is the share of positive records."""

    slope: float
    intercept: float
    base_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The figure that a verdict is about, and how scores become decisions for it.

    A record is judged positive where its calibrated log-odds, at `prevalence`, exceed `limit`. For
    a calibrated probability this is the best threshold for the figure (Elkan 2001). `prevalence`
    None keeps the share of positive validation records.
    """

    figure: Compared
    costs: Costs | None = None

    @property
    def prevalence(self) -> float | None:
        if self.figure is Compared.COST and self.costs is not None:
            return self.costs.prevalence
        return None if self.figure is Compared.ACCURACY else EVEN

    @property
    def limit(self) -> float:
        if self.figure is Compared.COST and self.costs is not None:
            return math.log(self.costs.overkill) - math.log(self.costs.miss)
        return 0.0

    def is_positive(self, margin: float, calibration: Platt) -> bool:
        """Return whether a record of this margin is judged positive."""
        log_odds = calibration.slope * margin + calibration.intercept
        if self.prevalence is not None:
            log_odds += _log_odds(self.prevalence) - _log_odds(calibration.base_rate)
        return log_odds > self.limit

    @property
    def words(self) -> str:
        """Return the name of the figure, as in "points of balanced accuracy"."""
        names = {Compared.AUROC: "AUROC", Compared.COST: "expected cost"}
        return names.get(self.figure, str(self.figure).replace("_", " "))


def rule_of(config: Mapping[str, Any]) -> Rule:
    """Return the rule of a run's configuration; balanced accuracy where it names none."""
    settings = config.get("eval")
    values = settings if isinstance(settings, Mapping) else {}
    miss, overkill = _positive(values.get("cost_miss")), _positive(values.get("cost_overkill"))
    costs = None
    if miss is not None and overkill is not None:
        prevalence = _positive(values.get("prevalence"))
        is_share = prevalence is not None and prevalence < 1
        costs = Costs(
            miss=miss,
            overkill=overkill,
            prevalence=prevalence if is_share else None,
        )

    primary = str(values.get("primary", "auto"))
    if primary == "auto":
        primary = "cost" if costs is not None else "balanced_accuracy"
    known = {str(figure): figure for figure in Compared}
    figure = known.get(primary, Compared.BALANCED_ACCURACY)
    if figure is Compared.COST and costs is None:
        figure = Compared.BALANCED_ACCURACY
    return Rule(figure=figure, costs=costs if figure is Compared.COST else None)


def _positive(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and value > 0 else None


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """The decisions of an arm on the same ordinary records, one row for each seed.

    `right` is 1 where the decision is the true label, else 0: (seeds, n). `scores` rise with the
    positive label: (seeds, n), or None without scores. `positive` and `clusters` are (n).
    `one_label` has a sentence for each run that gave one label to everything, else "".
    `uncalibrated` says why labels are the model's own; "" if they are calibrated. `folds` is the
    fold that tested each record, (n), or None without a cross-validation.
    """

    ids: tuple[str, ...]
    right: Floats
    scores: Floats | None
    positive: NDArray[np.bool_]
    clusters: tuple[str, ...]
    one_label: tuple[str, ...]
    uncalibrated: str
    folds: tuple[int, ...] | None = None

    def outcomes(self, figure: Compared) -> Floats:
        """Return what `vlmbench.stats.compare` takes. Raise UserError where there are no scores."""
        if figure is not Compared.AUROC:
            return self.right
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
        one_label=tuple(_one_label(run, row) for run, row in zip(runs, labels, strict=True)),
        uncalibrated="; ".join(sorted(reasons)),
        folds=_folds(runs, task, view, ids),
    )


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


def calibration_of(run: RunResult, task: Task, view: str) -> Platt | None:
    """Return a run's calibration, if it has one.

    The file may come from strangers: numbers that cannot be used count as none.
    """
    views = run.calibration.get(str(task))
    numbers = views.get(view) if isinstance(views, Mapping) else None
    if not isinstance(numbers, Mapping) or "error" in numbers:
        return None

    slope, intercept = numbers.get("slope"), numbers.get("intercept")
    n, n_positive = _positive(numbers.get("n")), _positive(numbers.get("n_positive"))
    finite = all(isinstance(x, int | float) and math.isfinite(x) for x in (slope, intercept))
    if not finite or n is None or n_positive is None or n_positive >= n:
        return None
    base_rate = n_positive / n
    return Platt(
        slope=float(slope or 0.0),
        intercept=float(intercept or 0.0),
        base_rate=base_rate,
    )


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


def _one_label(run: RunResult, labels: Sequence[str | None]) -> str:
    """Return that a run gave all records one label; "" if it did not."""
    given = set(labels)
    if len(given) > 1:
        return ""
    return f"{run.label} says {given.pop() or 'nothing that names a label'} to every record"


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


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))
