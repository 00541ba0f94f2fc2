"""Cells by figures: the tables of the page, of the Markdown and of the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlmbench.report.cells import Cell, task_views
from vlmbench.report.figures import CONSISTENCY, METRICS, Figure, Metric, figure, metric
from vlmbench.types import Task

HEADLINE = ("accuracy", "balanced_accuracy", "miss_rate", "overkill_rate", "auroc")
ARROWS = {"higher": "↑", "lower": "↓", "": ""}
LINK = Metric(
    title="Missing link",
    better="higher",
    meaning="Accuracy on a raw reference beside a processed query, which no variant trains on: "
    "A = B and B = C were shown, so does it conclude A = C?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One metric on one task and view; `title` and `note` head it, `better` is an arrow or ""."""

    task: str
    view: str
    name: str
    title: str
    note: str = ""
    better: str = ""

    def of(self, cell: Cell) -> Figure:
        return figure(self.name, cell.scores.get(self.task, {}).get(self.view, {}).get(self.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`figures` is empty for a cell that has not finished: `remark` says why."""

    cell: Cell
    figures: tuple[Figure, ...]
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`legend` explains the columns: (title, meaning)."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    legend: tuple[tuple[str, str], ...] = ()


def remark(cell: Cell) -> str:
    """Why a cell shows no figures; "" for a finished one."""
    return "" if cell.finished else f"{cell.state}{f': {cell.note}' if cell.note else ''}"


def table(title: str, cells: Sequence[Cell], columns: Sequence[Column], legend: Iterable[Metric]) -> Table:
    """A row for every cell, whatever its state."""
    rows = (
        Row(cell=cell, figures=tuple(c.of(cell) for c in columns) if cell.finished else (), remark=remark(cell))
        for cell in cells
    )
    explained = dict.fromkeys((m.title, m.meaning) for m in legend if m.meaning)
    return Table(title=title, columns=tuple(columns), rows=tuple(rows), legend=tuple(explained))


def named(task: str, view: str) -> str:
    """The title of what belongs to one task and view."""
    return f"{task.replace('_', ' ')} · {view}"


def metric_column(task: str, view: str, name: str) -> Column:
    """A column headed by its metric."""
    return Column(task=task, view=view, name=name, title=metric(name).title, better=ARROWS[metric(name).better])


def headline_table(cells: Sequence[Cell]) -> Table:
    """Held-out raw pairs: the real job."""
    columns = [metric_column(Task.JUDGE_PAIR, "raw", name) for name in HEADLINE]
    return table("Held-out raw pairs", cells, columns, [metric(name) for name in HEADLINE])


def accuracy_table(cells: Sequence[Cell]) -> Table:
    """Every task and view that has an accuracy."""
    columns = [
        Column(task=task, view=view, name="accuracy", title=task.replace("_", " "), note=view, better="↑")
        for task, view in task_views(cells)
        if any("accuracy" in cell.scores.get(task, {}).get(view, {}) for cell in cells)
    ]
    return table("Accuracy per task and view", cells, columns, [metric("accuracy")])


def further_tables(cells: Sequence[Cell]) -> list[Table]:
    """All metrics but accuracy and the consistency metrics, a table for each task and view."""
    tables = []
    for task, view in task_views(cells):
        names = [name for name in _names(cells, task, view) if name != "accuracy" and name not in CONSISTENCY]
        if names:
            columns = [metric_column(task, view, name) for name in names]
            tables.append(table(named(task, view), cells, columns, [metric(name) for name in names]))
    return tables


def consistency_tables(cells: Sequence[Cell]) -> list[Table]:
    """Whether answers agree with each other, a table for each view; the missing link belongs to the first."""
    tables = []
    link = [
        Column(task=task, view=view, name="accuracy", title=LINK.title, note=view, better="↑")
        for task, view in task_views(cells)
        if task == Task.JUDGE_LINK and "accuracy" in _names(cells, task, view)
    ]
    for task, view in task_views(cells):
        names = [name for name in CONSISTENCY if name in _names(cells, task, view)]
        if names:
            columns = [metric_column(task, view, name) for name in names] + link
            legend = [metric(name) for name in names] + [LINK] * bool(link)
            tables.append(table(named(task, view), cells, columns, legend))
            link = []
    if link:
        tables.append(table(named(Task.JUDGE_LINK, link[0].view), cells, link, [LINK]))
    return tables


def _names(cells: Sequence[Cell], task: str, view: str) -> list[str]:
    """The metrics that any cell has: the known ones in their usual order, then the others by name."""
    found = {name for cell in cells for name in cell.scores.get(task, {}).get(view, {})}
    return [name for name in METRICS if name in found] + sorted(found - METRICS.keys())
