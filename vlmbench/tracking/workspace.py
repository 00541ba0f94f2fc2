"""A W&B workspace of one sweep: curves over steps and over trained tokens, and final figures."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vlmbench.config import TrackingConfig
from vlmbench.metrics import figures_in
from vlmbench.runs.sweep import SweepDir
from vlmbench.tracking.tracker import BY_TOKENS, import_wandb
from vlmbench.types import Task, UserError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

log = logging.getLogger(__name__)


def save(settings: TrackingConfig, sweep: SweepDir) -> str:
    """Save the workspace on W&B and return its address.

    Raise UserError if an entity or the sweep is missing, or if W&B refuses.
    """
    if settings.entity is None:
        raise UserError(
            "stage=dashboard saves to W&B and needs an owner; "
            "set tracking.entity=my_team, your user or team on W&B"
        )

    workspace = make_workspace(settings, sweep)
    import_wandb()
    try:
        workspace.save()
    except Exception as error:  # whatever W&B raises, the user can mend it there
        owner = f"{settings.entity}/{settings.project}"
        raise UserError(
            f"W&B refused the workspace of {owner} ({type(error).__name__}: {error}); "
            "log in with `wandb login`, and train with tracking=online "
            "or send the runs with `wandb sync`"
        ) from error
    return str(workspace.url)


def make_workspace(settings: TrackingConfig, sweep: SweepDir) -> Workspace:
    """Return a workspace with panels for all figures of the sweep; its runs grouped by variant."""
    from wandb_workspaces import expr, workspaces

    runs = workspaces.RunsetSettings(
        filters=expr.And(expr.Metric("Group") == sweep.path.name),
        groupby=[expr.Config("backbone"), expr.Config("variant")],
    )
    return workspaces.Workspace(
        entity=settings.entity or "",
        project=settings.project,
        name=sweep.path.name,
        sections=[*_curve_sections(), *_figure_sections(_task_views(sweep))],
        runset_settings=runs,
    )


def _task_views(sweep: SweepDir) -> list[tuple[str, str]]:
    """Return every task and view with figures, pairs of raw images first."""
    task_views: set[tuple[str, str]] = set()
    for run in sweep.runs():
        try:
            scores = run.read_metrics().get("scores", {})
        except UserError as error:
            log.warning("%s; the dashboard leaves this run out", error)
            continue
        task_views |= {(task, view) for task, views in scores.items() for view in views}
    order_of = {str(task): number for number, task in enumerate(Task)}

    def order(task_view: tuple[str, str]) -> tuple[int, bool, str]:
        task, view = task_view
        return order_of.get(task, len(order_of)), view != "raw", view

    return sorted(task_views, key=order)


def _curve_sections() -> Iterable[Section]:
    from wandb_workspaces.reports.v2 import LinePlot
    from wandb_workspaces.workspaces import Section

    curves = (("Curves over steps", "step", ""), ("Curves over tokens", "num_tokens", "by_tokens/"))
    for title, axis, prefix in curves:
        panels = [LinePlot(title=name, x=axis, y=[f"{prefix}{name}"]) for name in BY_TOKENS]
        yield Section(
            name=title,
            panels=panels,
            is_open=True,
        )


def _figure_sections(task_views: Iterable[tuple[str, str]]) -> Iterable[Section]:
    from wandb_workspaces.reports.v2 import BarPlot
    from wandb_workspaces.workspaces import Section

    for number, (task, view) in enumerate(task_views):
        panels = [
            BarPlot(title=info.title, metrics=[f"{task}/{view}/{info.name}"])
            for info in figures_in("headline")
        ]
        title = f"{task.replace('_', ' ')}, {view}"
        yield Section(
            name=title,
            panels=panels,
            is_open=number == 0,
        )
