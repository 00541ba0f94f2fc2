"""Runs whose test split is sealed: their validation figures, in tables of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vlmbench.config import HeldOut
from vlmbench.metrics import figures_in
from vlmbench.report.runs import RunResult
from vlmbench.report.series import task_views
from vlmbench.report.tables import Table, build_table, metric_column, task_view_title

SEALED_TITLE = "validation records (test split sealed)"


def sealed_runs(runs: Sequence[RunResult]) -> list[RunResult]:
    """Return the finished runs with a sealed test split, with their validation figures."""
    return [
        replace(run, metrics={**run.metrics, "scores": run.metrics.get("validation_scores", {})})
        for run in runs
        if run.finished and run.metrics.get("test") == HeldOut.sealed
    ]


def validation_tables(runs: Sequence[RunResult]) -> list[Table]:
    """Return a table of validation figures for each task and view; none without sealed runs."""
    sealed = sealed_runs(runs)
    infos = figures_in("headline")
    tables = []
    for task, view in task_views(sealed):
        columns = [metric_column(task, view, info) for info in infos]
        title = f"{task_view_title(task, view)}, {SEALED_TITLE}"
        tables.append(build_table(title, sealed, columns, infos))
    return tables
