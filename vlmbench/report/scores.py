"""Confusion, ranking and calibration of each series, by task and view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from vlmbench.metrics._bins import BINS, bin_by_confidence
from vlmbench.report.figures import Figure, figure
from vlmbench.report.folds import folds_of
from vlmbench.report.questions import BASELINE
from vlmbench.report.runs import RunResult
from vlmbench.report.series import Series, series_of, task_views
from vlmbench.report.tables import task_view_title
from vlmbench.stats import RocBand, estimate_rate, roc_band
from vlmbench.types import LABELS, Estimate, Prediction, Rate, Task

NO_LABEL = "no label"
RESAMPLING_SEED = 0  # the same band from the same predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerShare:
    """The records of one true label that got one answer: their number, and their share."""

    label: str
    count: int
    share: Figure
    right: bool

    @property
    def weight(self) -> str:
        """Return the share as a CSS percentage."""
        return f"{100 * (self.share.value or 0.0):.0f}%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """A confusion matrix. Rows are (true label, records, shares); columns are the answers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[AnswerShare, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Records of about the same confidence.

    `middle` is the middle of the bin, `confidence` the records' mean, `right` the share of right
    answers with its interval.
    """

    middle: float
    confidence: float
    right: Estimate

    @property
    def sentence(self) -> str:
        """Return the share of right answers in words."""
        return figure("accuracy", asdict(self.right)).sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesScores:
    """A series on one task and view.

    `roc` is None and `bins` is empty if the answers were generated as text, without scores.
    """

    series: Series
    confusion: Confusion
    roc: RocBand | None
    bins: tuple[ReliabilityBin, ...]
    auroc: tuple[Figure, ...]
    ece: tuple[Figure, ...]

    @property
    def scored(self) -> bool:
        return self.roc is not None or bool(self.bins)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskViewScores:
    """A task and view, with every series that has predictions for it."""

    task: str
    view: str
    members: tuple[SeriesScores, ...]

    @property
    def title(self) -> str:
        return task_view_title(self.task, self.view)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the possible answers of all series."""
        columns = [column for scores in self.members for column in scores.confusion.columns]
        return tuple(dict.fromkeys(columns))

    def baseline_of(self, scores: SeriesScores) -> SeriesScores | None:
        """Return the baseline with the same model and setting; None for the baseline itself."""
        model_setting = (scores.series.model, scores.series.setting)

        for candidate in self.members:
            series = candidate.series
            same_model = (series.model, series.setting) == model_setting
            if series.data == BASELINE and same_model and candidate is not scores:
                return candidate

        return None


def by_seed(figures: Sequence[Figure]) -> str:
    """Return the figure of each seed with its interval; equal counts are written once."""
    if len({each.count for each in figures}) > 1:
        return " · ".join(each.sentence for each in figures)

    values = [f"{each.text} ({each.interval})" if each.interval else each.text for each in figures]
    return "; ".join(part for part in (" · ".join(values), figures[0].count) if part)


def task_view_scores(runs: Sequence[RunResult]) -> list[TaskViewScores]:
    """Return every task and view with two labels that a finished run has predictions for."""
    all_series = series_of(runs)
    scores = []

    for task, view in task_views(runs):
        if task not in LABELS:
            continue

        candidates = [_series_scores(series, Task(task), view) for series in all_series]
        members = tuple(member for member in candidates if member is not None)
        if members:
            scores.append(
                TaskViewScores(
                    task=task,
                    view=view,
                    members=members,
                )
            )

    return scores


def _series_scores(
    series: Series,
    task: Task,
    view: str,
) -> SeriesScores | None:
    """Return the scores of a series; None without predictions, or with labels of another kind."""
    seeds = [predictions for predictions in series.by_seed(task, view) if predictions]
    predictions = [prediction for seed in seeds for prediction in seed]
    labels = set(LABELS[task])

    if not predictions or any(each.expected not in labels for each in predictions):
        return None

    scored = all(labels <= each.scores.keys() for each in predictions)
    metrics = [run.scores.get(task, {}).get(view, {}) for run in folds_of(series.runs)]
    is_one_model = not any(run.folds for run in series.runs)  # scores of others do not compare
    return SeriesScores(
        series=series,
        confusion=confusion(predictions),
        roc=roc_band(seeds, seed=RESAMPLING_SEED) if scored and is_one_model else None,
        bins=reliability(predictions) if scored else (),
        auroc=tuple(figure("auroc", each["auroc"]) for each in metrics if "auroc" in each),
        ece=tuple(figure("ece", each["ece"]) for each in metrics if "ece" in each),
    )


def confusion(predictions: Sequence[Prediction]) -> Confusion:
    """Return the confusion matrix of predictions for one task.

    Answers that name no label get the extra column NO_LABEL, if there are any.
    """
    labels = LABELS[predictions[0].task]
    all_named = all(prediction.predicted in labels for prediction in predictions)
    columns = labels if all_named else (*labels, NO_LABEL)

    rows = []
    for label in labels:
        members = [prediction for prediction in predictions if prediction.expected == label]
        shares = [_answer_share(members, label, column) for column in columns if members]
        rows.append((label, len(members), tuple(shares)))

    return Confusion(columns=tuple(columns), rows=tuple(rows))


def _answer_share(
    members: Sequence[Prediction],
    label: str,
    column: str,
) -> AnswerShare:
    """Return how many records of the true `label` got the answer `column`."""
    labels = LABELS[members[0].task]
    answers = [each.predicted if each.predicted in labels else NO_LABEL for each in members]
    hits = tuple(answer == column for answer in answers)

    rate = Rate(hits=hits, parts=tuple(each.cluster for each in members))
    share = figure("accuracy", asdict(estimate_rate(rate)))
    return AnswerShare(
        label=column,
        count=sum(hits),
        share=share,
        right=column == label,
    )


def reliability(predictions: Sequence[Prediction]) -> tuple[ReliabilityBin, ...]:
    """Return the bins of the calibration error, least confident first, without empty ones."""
    binned = bin_by_confidence(predictions)
    if binned is None:
        return ()

    bins = []
    for number in range(BINS + 1):
        indices = np.flatnonzero(binned.bins == number)
        if not indices.size:
            continue

        members = [predictions[index] for index in indices.tolist()]
        rate = Rate(
            hits=tuple(each.correct for each in members),
            parts=tuple(each.cluster for each in members),
        )
        bins.append(
            ReliabilityBin(
                middle=(number - 0.5) / BINS,
                confidence=float(binned.confidence[indices].mean()),
                right=estimate_rate(rate),
            )
        )

    return tuple(bins)
