"""Is tuning worth it here? Tuned runs beside methods that train little or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vlmbench.metrics import by_task_and_view, describe
from vlmbench.metrics._select import is_positive
from vlmbench.report.baseline_answers import (
    AskedBaseline,
    FoldOf,
    LeftOut,
    TaskView,
    decide_all,
    read_baselines,
    tuned_answers,
    tuned_folds,
)
from vlmbench.report.baseline_figures import FIGURES, estimates
from vlmbench.report.decisions import NO_MISSES
from vlmbench.report.figures import Figure, figure
from vlmbench.report.folds import pool_folds
from vlmbench.report.localisation import Localisation, localisations
from vlmbench.report.questions import TASKS
from vlmbench.report.runs import RunResult
from vlmbench.report.scores import RESAMPLING_SEED
from vlmbench.report.series import Series, series_of
from vlmbench.report.tables import ARROWS, task_view_title
from vlmbench.report.worth import Asked, Worth, worth
from vlmbench.runs.baselines import baseline_dir
from vlmbench.stats import Redrawn, Rule, redraw, rule_of
from vlmbench.stats.compare import LEVEL
from vlmbench.types import JUDGING, Prediction, Task, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRow:
    """A baseline, or a tuned series: its figures in the order of FIGURES, and its time."""

    name: str
    about: str
    is_tuned: bool
    figures: tuple[Figure, ...]
    seconds: float | None
    seconds_note: str
    answers: tuple[tuple[Prediction, ...], ...]  # of each run
    redrawn: Redrawn | None  # thresholds with other validation parts
    fold_of: FoldOf

    @property
    def asked(self) -> Asked:
        """The row as `worth` takes it."""
        return Asked(
            name=self.name,
            answers=self.answers,
            redrawn=self.redrawn,
            fold_of=self.fold_of,
        )

    @property
    def time(self) -> str:
        return "–" if self.seconds is None else f"{self.seconds:,.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineTable:
    """All baselines and tuned series on the held-out records of one task and view."""

    task: Task
    view: str
    rows: tuple[BaselineRow, ...]

    @property
    def title(self) -> str:
        return task_view_title(self.task, self.view)

    @property
    def records(self) -> str:
        return f"held-out {self.view} {TASKS[self.task]}"

    @property
    def heads(self) -> list[tuple[str, str]]:
        """Return the title and the arrow of each column of figures."""
        infos = [describe(name) for name in FIGURES]
        return [(info.title, ARROWS[info.better]) for info in infos]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSection:
    """The tables, the verdict on the first of them, and the baselines that are left out.

    `localised` tells how well heat maps find marked defects.
    """

    asked: tuple[AskedBaseline, ...]
    tables: tuple[BaselineTable, ...]
    sentence: str
    worth: Worth | None
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    localised: tuple[Localisation, ...] = ()

    @property
    def verdict(self) -> str:
        return "" if self.worth is None else self.worth.word


def baseline_section(
    sweep: Path, runs: Sequence[RunResult], *, level: float = LEVEL
) -> BaselineSection:
    """Return what the report says about baselines.

    `level` is the share of false verdicts that this look may spend. In a cross-validation the
    folds of a seed are one run. There are no tables if no run asked any.
    """
    rule = rule_of(runs[0].config if runs else {})
    asked, left_out = read_baselines(sweep, pool_folds(runs), rule)
    series = series_of(runs)

    kinds = {kind for each in asked for kind in each.answers if kind[0] in JUDGING}
    order = list(TASKS)
    ordered = sorted(kinds, key=lambda kind: (order.index(kind[0]), kind[1] != "raw", kind))
    tables = tuple(_table(kind, asked, series, rule) for kind in ordered)
    found, sentence = _worth(tables[0], rule, level) if tables else (None, "")

    notes = {f"{each.name}, {k}: {n}" for each in asked for k, n in each.notes.items()}
    return BaselineSection(
        asked=tuple(asked),
        tables=tables,
        sentence=sentence,
        worth=found,
        left_out=tuple(left_out),
        notes=tuple(sorted(notes)),
        localised=tuple(localisations(asked)),
    )


def summary_figures(
    sweep: Path, rows: Mapping[str, Mapping[str, str]], *, seed: int
) -> dict[str, dict[str, float]]:
    """Return "baseline/patch_nn/auroc" -> figure, as W&B's summary takes them.

    On other records than raw pairs, the task and the view follow the name of the baseline.
    """
    figures: dict[str, dict[str, float]] = {}
    for name, row in rows.items():
        if "key" not in row:
            continue

        folder = baseline_dir(sweep, row["key"])
        answers = decide_all(folder.read_validation(), folder.read_predictions())
        for (task, view), predictions in answers.items():
            found = estimates([predictions], seed=seed)
            is_main = (task, view) == (Task.JUDGE_PAIR, "raw")
            prefix = f"baseline/{name}" if is_main else f"baseline/{name}/{task}/{view}"
            figures |= {f"{prefix}/{key}": asdict(value) for key, value in found.items()}
    return figures


def _table(
    kind: TaskView,
    asked: Sequence[AskedBaseline],
    series: Sequence[Series],
    rule: Rule,
) -> BaselineTable:
    rows = [_baseline_row(each, kind, asked, rule) for each in asked if kind in each.answers]
    for member in series:
        answers = [tuned_answers(run, kind, rule) for run in member.runs]
        if answers and all(answers):
            rows.append(_tuned_row(member, answers, kind, rule))

    return BaselineTable(
        task=kind[0],
        view=kind[1],
        rows=tuple(rows),
    )


def _baseline_row(
    own: AskedBaseline, kind: TaskView, asked: Sequence[AskedBaseline], rule: Rule
) -> BaselineRow:
    is_alone = sum(each.name == own.name for each in asked) == 1
    models = ", ".join(dict.fromkeys(run.model for run in own.runs))
    fold_of = own.fold_of(kind)
    only = own.folds[0] if fold_of is None else None

    return BaselineRow(
        name=own.name if is_alone else f"{own.name} · {models}",
        about=own.title,
        is_tuned=False,
        figures=_figures([own.answers[kind]], fold_of),
        seconds=sum(own.seconds.values()),
        seconds_note=", ".join(f"{name} {value:,.1f}" for name, value in own.seconds.items()),
        answers=(tuple(own.answers[kind]),),
        redrawn=None if only is None else redraw([only.validation.get(kind, [])], rule),
        fold_of=fold_of,
    )


def _tuned_row(
    series: Series, answers: Sequence[Sequence[Prediction]], kind: TaskView, rule: Rule
) -> BaselineRow:
    """Return the row of a series; its time is the mean of its seeds, evaluation included."""
    seconds = [_seconds(run) for run in series.runs]
    known = [value for value in seconds if value is not None]
    fold_of = tuned_folds(series.runs[0], kind)
    validation = [by_task_and_view(run.validation).get(kind, []) for run in series.runs]

    return BaselineRow(
        name=series.name,
        about=f"tuned, {series.seeds}",
        is_tuned=True,
        figures=_figures(answers, fold_of),
        seconds=sum(known) / len(known) if known else None,
        seconds_note="a whole run" if known else "",
        answers=tuple(tuple(own) for own in answers),
        redrawn=redraw(validation, rule) if fold_of is None else None,
        fold_of=fold_of,
    )


def _seconds(run: RunResult) -> float | None:
    """Return the seconds of a run, or of all folds of a seed; None if they are not known."""
    seconds = [each.status.get("seconds") for each in run.folds or (run,)]
    known = [value for value in seconds if isinstance(value, int | float)]
    return sum(known) if len(known) == len(seconds) else None


def _figures(answers: Sequence[Sequence[Prediction]], fold_of: FoldOf) -> tuple[Figure, ...]:
    found = estimates(answers, seed=RESAMPLING_SEED, fold_of=fold_of)
    return tuple(figure(name, asdict(found[name]) if name in found else None) for name in FIGURES)


def _worth(table: BaselineTable, rule: Rule, level: float) -> tuple[Worth | None, str]:
    """Return the verdict on tuned series against baselines; else a sentence that says why not."""
    tuned, others = (
        [row.asked for row in table.rows if row.is_tuned is kind] for kind in (True, False)
    )
    if not tuned or not others:
        return None, ""
    if not any(is_positive(table.rows[0].answers[0])):
        return None, f"No comparison with the baselines: {NO_MISSES}."

    try:
        found = worth(
            tuned,
            others,
            what=table.records,
            rule=rule,
            level=level,
        )
    except UserError as error:
        return None, f"No comparison with the baselines: {error}."
    return found, found.sentence
