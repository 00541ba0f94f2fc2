"""Runs by figures: the tables of the page, of report.md and of the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmbench.metrics import MetricInfo, describe, figures_in
from vlmbench.report.figures import Figure, figure
from vlmbench.report.runs import RunResult
from vlmbench.report.series import task_views
from vlmbench.types import Task

ARROWS = {"higher": "↑", "lower": "↓", "": ""}
MISSING_LINK = MetricInfo(
    name="accuracy",
    title="Missing link",
    unit="share",
    better="higher",
    meaning="Accuracy on a raw reference beside a processed query, which no variant trains on: "
    "A = B and B = C were shown, so does it conclude A = C?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A figure on one task and view. `title` and `note` head it; `better` is an arrow or ""."""

    task: str
    view: str
    name: str
    title: str
    note: str = ""
    better: str = ""

    def figure_of(self, run: RunResult) -> Figure:
        """Return this column's figure of a run."""
        return figure(self.name, _figures_of(run, self.task, self.view).get(self.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A run. `figures` is empty for an unfinished run; then `remark` says why."""

    run: RunResult
    figures: tuple[Figure, ...]
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns, rows and the `legend` that explains the columns: (title, meaning)."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    legend: tuple[tuple[str, str], ...] = ()


def remark(run: RunResult) -> str:
    """Return why a run shows no figures; "" for a finished run."""
    if run.finished:
        return ""

    return f"{run.state}: {run.note}" if run.note else run.state


def build_table(
    title: str, runs: Sequence[RunResult], columns: Sequence[Column], legend: Iterable[MetricInfo]
) -> Table:
    """Return a table with a row for every run, whatever its state."""
    rows = []
    for run in runs:
        figures = tuple(column.figure_of(run) for column in columns) if run.finished else ()
        rows.append(
            Row(
                run=run,
                figures=figures,
                remark=remark(run),
            )
        )

    explained = dict.fromkeys((info.title, info.meaning) for info in legend if info.meaning)
    return Table(
        title=title,
        columns=tuple(columns),
        rows=tuple(rows),
        legend=tuple(explained),
    )


def task_view_title(task: str, view: str) -> str:
    """Return the title of a section or table on one task and view."""
    return f"{task.replace('_', ' ')} · {view}"


def metric_column(task: str, view: str, info: MetricInfo) -> Column:
    """Return a column with the title and the arrow of its figure."""
    return Column(
        task=task, view=view, name=info.name, title=info.title, better=ARROWS[info.better]
    )


def headline_table(runs: Sequence[RunResult]) -> Table:
    """Return the headline figures on held-out raw pairs."""
    infos = figures_in("headline")
    columns = [metric_column(Task.JUDGE_PAIR, "raw", info) for info in infos]
    return build_table("Held-out raw pairs", runs, columns, infos)


def accuracy_table(runs: Sequence[RunResult]) -> Table:
    """Return the accuracy on every task and view that has one."""
    info = describe("accuracy")
    columns = [
        _accuracy_column(task, view, task.replace("_", " "))
        for task, view in task_views(runs)
        if any(info.name in _figures_of(run, task, view) for run in runs)
    ]
    return build_table("Accuracy per task and view", runs, columns, [info])


def further_tables(runs: Sequence[RunResult]) -> list[Table]:
    """Return a table for each task and view, with all figures but accuracy and consistency."""
    tables = []
    for task, view in task_views(runs):
        infos = [
            info
            for info in _measured_figures(runs, task, view)
            if info.name != "accuracy" and info.section != "consistency"
        ]
        if infos:
            columns = [metric_column(task, view, info) for info in infos]
            tables.append(build_table(task_view_title(task, view), runs, columns, infos))

    return tables


def consistency_tables(runs: Sequence[RunResult]) -> list[Table]:
    """Return a table for each task and view: do answers agree with each other?

    The missing link stands in the first table.
    """
    link = [
        _accuracy_column(task, view, MISSING_LINK.title)
        for task, view in task_views(runs)
        if task == Task.JUDGE_LINK and any("accuracy" in _figures_of(r, task, view) for r in runs)
    ]

    tables = []
    for task, view in task_views(runs):
        infos = [
            info for info in _measured_figures(runs, task, view) if info.section == "consistency"
        ]
        if infos:
            columns = [metric_column(task, view, info) for info in infos] + link
            legend = [*infos, MISSING_LINK] if link else infos
            tables.append(build_table(task_view_title(task, view), runs, columns, legend))
            link = []

    if link:
        title = task_view_title(Task.JUDGE_LINK, link[0].view)
        tables.append(build_table(title, runs, link, [MISSING_LINK]))

    return tables


def _accuracy_column(task: str, view: str, title: str) -> Column:
    better = ARROWS[describe("accuracy").better]
    return Column(
        task=task,
        view=view,
        name="accuracy",
        title=title,
        note=view,
        better=better,
    )


def _figures_of(run: RunResult, task: str, view: str) -> Mapping[str, Any]:
    return run.scores.get(task, {}).get(view, {})


def _measured_figures(runs: Sequence[RunResult], task: str, view: str) -> list[MetricInfo]:
    """Return the figures that any run has, in the order of their metric files, then by name."""
    names = {name for run in runs for name in _figures_of(run, task, view)}
    return sorted(map(describe, names), key=lambda info: (info.order, info.name))
