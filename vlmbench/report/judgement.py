"""How each series judges: what it says to which label, how it ranks, and whether it is as sure as it is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from vlmbench.metrics._bins import BINS, sureness
from vlmbench.report.cells import Cell, Series, series_of, task_views
from vlmbench.report.figures import Figure, figure
from vlmbench.report.tables import named
from vlmbench.report.verdicts import BASELINE, RESAMPLING_SEED
from vlmbench.stats import RocBand, estimate_rate, roc_band
from vlmbench.types import LABELS, Estimate, Prediction, Rate, Task

NO_LABEL = "no label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """How many of the records of one true label got one answer; `share` of that label's records."""

    label: str
    count: int
    share: Figure
    right: bool

    @property
    def weight(self) -> str:
        """The share as a CSS percentage."""
        return f"{100 * (self.share.value or 0.0):.0f}%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """A row for each true label: (label, its records, what was said). `columns` are what may be said."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Said, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Records about equally sure: the middle of their bin, their mean confidence, and how many of them are right, with
    its interval."""

    middle: float
    confidence: float
    right: Estimate

    @property
    def sentence(self) -> str:
        """The share of them that are right."""
        return figure("accuracy", asdict(self.right)).sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One series on one task and view. `roc` is None, and `bins` empty, where answers were written, not scored."""

    series: Series
    confusion: Confusion
    roc: RocBand | None
    bins: tuple[Bin, ...]
    auroc: tuple[Figure, ...]
    ece: tuple[Figure, ...]

    @property
    def scored(self) -> bool:
        return self.roc is not None or bool(self.bins)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One task and view with every series that was asked."""

    task: str
    view: str
    judged: tuple[Judged, ...]

    @property
    def title(self) -> str:
        return named(self.task, self.view)

    @property
    def columns(self) -> tuple[str, ...]:
        """What any of the series may have said."""
        return tuple(dict.fromkeys(column for one in self.judged for column in one.confusion.columns))

    def baseline_of(self, one: Judged) -> Judged | None:
        """The series that trained without comparison records, of the same model and setting; not for itself."""
        alike = (one.series.model, one.series.setting)
        for other in self.judged:
            if (
                other.series.data == BASELINE
                and other is not one
                and alike == (other.series.model, other.series.setting)
            ):
                return other
        return None


def by_seed(figures: Sequence[Figure]) -> str:
    """One figure a seed with their intervals; what they rest on once, where it is the same."""
    if len({one.count for one in figures}) > 1:
        return " · ".join(one.sentence for one in figures)
    values = (f"{one.text} ({one.interval})" if one.interval else one.text for one in figures)
    return "; ".join(part for part in (" · ".join(values), figures[0].count) if part)


def places(cells: Sequence[Cell]) -> list[Place]:
    """Every task and view with finished cells, whose records have one of the task's two labels."""
    series = series_of(cells)
    found = []
    for task, view in task_views(cells):
        if task in LABELS:
            judged = (_judged(one, Task(task), view) for one in series)
            known = tuple(one for one in judged if one is not None)
            if known:
                found.append(Place(task=task, view=view, judged=known))
    return found


def _judged(series: Series, task: Task, view: str) -> Judged | None:
    seeds = [answers for answers in series.by_seed(task, view) if answers]
    answers = [answer for seed in seeds for answer in seed]
    if not answers or any(answer.expected not in LABELS[task] for answer in answers):
        return None
    scored = all(set(LABELS[task]) <= answer.scores.keys() for answer in answers)
    scores = [cell.scores.get(task, {}).get(view, {}) for cell in series.cells]
    return Judged(
        series=series,
        confusion=confusion(answers),
        roc=roc_band(seeds, seed=RESAMPLING_SEED) if scored else None,
        bins=reliability(answers) if scored else (),
        auroc=tuple(figure("auroc", one["auroc"]) for one in scores if "auroc" in one),
        ece=tuple(figure("ece", one["ece"]) for one in scores if "ece" in one),
    )


def confusion(answers: Sequence[Prediction]) -> Confusion:
    """Of answers to one task; those that name no label have a column where there are any."""
    labels = LABELS[answers[0].task]
    columns = labels if all(answer.predicted in labels for answer in answers) else (*labels, NO_LABEL)
    rows = []
    for label in labels:
        members = [answer for answer in answers if answer.expected == label]
        groups = tuple(answer.group for answer in members)
        said = []
        for column in columns if members else ():
            hits = tuple((answer.predicted if answer.predicted in labels else NO_LABEL) == column for answer in members)
            share = figure("accuracy", asdict(estimate_rate(Rate(hits=hits, groups=groups))))
            said.append(Said(label=column, count=sum(hits), share=share, right=column == label))
        rows.append((label, len(members), tuple(said)))
    return Confusion(columns=tuple(columns), rows=tuple(rows))


def reliability(answers: Sequence[Prediction]) -> tuple[Bin, ...]:
    """The bins that the calibration error is made of, from the least sure; empty ones are left out."""
    sure = sureness(answers)
    if sure is None:
        return ()
    found = []
    for number in range(BINS + 1):
        members = np.flatnonzero(sure.bins == number)
        if members.size:
            some = [answers[i] for i in members.tolist()]
            rate = Rate(hits=tuple(answer.correct for answer in some), groups=tuple(answer.group for answer in some))
            mean = float(sure.confidence[members].mean())
            found.append(Bin(middle=(number - 0.5) / BINS, confidence=mean, right=estimate_rate(rate)))
    return tuple(found)
