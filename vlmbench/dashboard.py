"""A W&B workspace of one sweep: curves of its cells over steps and over trained tokens, and their final figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vlmbench.config import TrackingConfig
from vlmbench.rundir import SweepDir
from vlmbench.tracking import BY_TOKENS
from vlmbench.types import Task, UserError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

JUDGED = ("accuracy", "balanced_accuracy", "miss_rate", "overkill_rate", "auroc")


def save(settings: TrackingConfig, sweep: SweepDir) -> str:
    """Save the workspace on W&B and give its address.

    Raises UserError where an entity or the sweep is missing, or W&B refuses.
    """
    if settings.entity is None:
        raise UserError("stage=dashboard saves to W&B and must know whose it is: tracking.entity=<your W&B name>")
    made = workspace(settings, sweep)
    try:
        made.save()
    except Exception as error:  # whatever W&B raises, the user can mend it there
        raise UserError(
            f"W&B did not take the workspace of {settings.entity}/{settings.project} ({type(error).__name__}: "
            f"{error}); log in with `wandb login`, and train with tracking=online or send the runs with `wandb sync`"
        ) from error
    return str(made.url)


def workspace(settings: TrackingConfig, sweep: SweepDir) -> Workspace:
    """The panels for what the sweep's cells have measured. Its runs are those of the sweep's group, by variant."""
    from wandb_workspaces import expr, workspaces

    runs = workspaces.RunsetSettings(
        filters=expr.And(expr.Metric("Group") == sweep.path.name),
        groupby=[expr.Config("backbone"), expr.Config("variant")],
    )
    return workspaces.Workspace(
        entity=settings.entity or "",
        project=settings.project,
        name=sweep.path.name,
        sections=[*_curves(), *_figures(_measured(sweep))],
        runset_settings=runs,
    )


def _measured(sweep: SweepDir) -> list[tuple[str, str]]:
    """Every task and view with figures, pairs on raw pictures first."""
    found = {
        (task, view): None
        for cell in sweep.cells()
        for task, views in cell.read_metrics().get("scores", {}).items()
        for view in views
    }
    return sorted(found, key=lambda place: (list(Task).index(Task(place[0])), place[1] != "raw", place[1]))


def _curves() -> Iterable[Section]:
    from wandb_workspaces.reports.v2 import LinePlot
    from wandb_workspaces.workspaces import Section

    for title, axis, prefix in (("Curves over steps", "step", ""), ("Curves over tokens", "num_tokens", "by_tokens/")):
        panels = [LinePlot(title=name, x=axis, y=[f"{prefix}{name}"]) for name in BY_TOKENS]
        yield Section(name=title, panels=panels, is_open=True)


def _figures(places: Iterable[tuple[str, str]]) -> Iterable[Section]:
    from wandb_workspaces.reports.v2 import BarPlot
    from wandb_workspaces.workspaces import Section

    for number, (task, view) in enumerate(places):
        panels = [BarPlot(title=name, metrics=[f"{task}/{view}/{name}"]) for name in JUDGED]
        yield Section(name=f"{task.replace('_', ' ')}, {view}", panels=panels, is_open=number == 0)
