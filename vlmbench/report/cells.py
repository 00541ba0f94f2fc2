"""What a report knows of one cell, and how cells are named apart."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from vlmbench.rundir import RunDir, State, SweepDir
from vlmbench.types import Prediction, Probe, Task

# Overrides that are shown as the cell's own properties, so they do not belong to its setting.
NAMED_OVERRIDES = ("model", "data", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell's files, read once. `setting` holds the overrides, besides model, data and seed, that tell it apart."""

    name: str
    model: str
    data: str
    seed: int | None
    setting: str
    config: Mapping[str, Any]
    status: Mapping[str, Any]
    env: Mapping[str, Any]
    metrics: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    predictions: Sequence[Prediction]

    @property
    def state(self) -> str:
        return str(self.status.get("state", "unknown"))

    @property
    def error(self) -> str:
        return str(self.status.get("error") or "")

    @property
    def note(self) -> str:
        """What stopped the cell: an error, or where it was pruned."""
        return self.error or str(self.status.get("note") or "")

    @property
    def finished(self) -> bool:
        return self.state == State.FINISHED

    @property
    def series(self) -> str:
        """What all seeds of this cell have in common."""
        return " · ".join(part for part in (self.model, self.data, self.setting) if part) or self.name

    @property
    def label(self) -> str:
        return f"{self.series}{'' if self.seed is None else f' · seed {self.seed}'}"

    @property
    def title(self) -> str:
        """The first half of the label, where there is room for two lines: what most sweeps are about."""
        return self.data or self.name

    @property
    def subtitle(self) -> str:
        seed = "" if self.seed is None else f"seed {self.seed}"
        return " · ".join(part for part in (self.model, seed, self.setting) if part)

    @property
    def scores(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """`[task][view][metric]`; empty for a cell that has not finished, whose figures would mislead."""
        return self.metrics.get("scores", {}) if self.finished else {}

    @property
    def command(self) -> str:
        """Runs this cell alone again; an experiment that carries a sweep must be told not to start it."""
        overrides = [str(override) for override in self.status.get("overrides", ())]
        if any(override.startswith("experiment=") for override in overrides):
            overrides.append("hydra.mode=RUN")
        return shlex.join(["python", "-m", "vlmbench", *overrides])

    def answers(self, task: Task, view: str) -> list[Prediction]:
        """Predictions on ordinary held-out records; none for a cell that has not finished."""
        if not self.finished:
            return []
        return [p for p in self.predictions if p.task == task and p.view == view and p.probe == Probe.NONE]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The finished cells that differ in their seed alone."""

    model: str
    setting: str
    data: str
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        return " · ".join(part for part in (self.model, self.data, self.setting) if part)

    @property
    def seeds(self) -> str:
        """How many, in words."""
        return "1 seed" if len(self.cells) == 1 else f"{len(self.cells)} seeds"

    def views(self, task: Task) -> list[str]:
        """In which the task was asked."""
        return list(dict.fromkeys(p.view for cell in self.cells for p in cell.predictions if p.task is task))

    def by_seed(self, task: Task, view: str) -> list[list[Prediction]]:
        """Ordinary predictions, a list a seed."""
        return [cell.answers(task, view) for cell in self.cells]

    def answers(self, task: Task, view: str) -> list[Prediction]:
        """Those of all seeds."""
        return list(chain.from_iterable(self.by_seed(task, view)))


def read_cells(sweep: SweepDir) -> list[Cell]:
    """Every cell of the sweep, whatever its state. Raises UserError where there is none."""
    folders = sweep.cells()
    overrides = [_other_overrides(folder) for folder in folders]
    common = frozenset.intersection(*(frozenset(own) for own in overrides))
    return [_read_cell(folder, own, common) for folder, own in zip(folders, overrides, strict=True)]


def _other_overrides(folder: RunDir) -> list[str]:
    given = [str(override) for override in folder.read_status().get("overrides", ())]
    return [override for override in given if override.lstrip("+").partition("=")[0] not in NAMED_OVERRIDES]


def _read_cell(folder: RunDir, overrides: Sequence[str], common: frozenset[str]) -> Cell:
    status = folder.read_status()
    return Cell(
        name=folder.path.name,
        model=str(status.get("model", "")),
        data=str(status.get("data", "")),
        seed=status.get("seed"),
        setting=" ".join(override for override in overrides if override not in common),
        config=folder.read_config(),
        status=status,
        env=folder.read_env(),
        metrics=folder.read_metrics(),
        log=folder.read_train_log(),
        predictions=folder.read_predictions(),
    )


def by_series(cells: Sequence[Cell]) -> dict[tuple[str, str, str], dict[int | None, Cell]]:
    """(model, setting, data) -> seed -> its finished cell; of two cells with one seed, the last."""
    found: dict[tuple[str, str, str], dict[int | None, Cell]] = {}
    for cell in cells:
        if cell.finished:
            found.setdefault((cell.model, cell.setting, cell.data), {})[cell.seed] = cell
    return found


def series_of(cells: Sequence[Cell]) -> list[Series]:
    """The finished cells, those that differ in their seed alone together."""
    return [
        Series(model=model, setting=setting, data=data, cells=tuple(by_seed.values()))
        for (model, setting, data), by_seed in by_series(cells).items()
    ]


def task_views(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Every scored (task, view): the tasks in their usual order, the raw view before the others."""
    order = {str(task): index for index, task in enumerate(Task)}
    found = {(task, view) for cell in cells for task, views in cell.scores.items() for view in views}
    return sorted(found, key=lambda pair: (order.get(pair[0], len(order)), pair[1] != "raw", pair[1]))
