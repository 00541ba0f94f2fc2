"""Runs grouped into series: the seeds of one variant and setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from vlmbench.report.folds import pool_folds
from vlmbench.report.runs import RunResult, join_names
from vlmbench.system.text import counted
from vlmbench.types import Prediction, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The finished runs that differ in their seed alone."""

    model: str
    setting: str
    data: str
    runs: tuple[RunResult, ...]

    @property
    def name(self) -> str:
        return join_names(self.model, self.data, self.setting)

    @property
    def seeds(self) -> str:
        """Return the number of seeds in words."""
        return counted(len(self.runs), "seed")

    def views(self, task: Task) -> list[str]:
        """Return the views that the series has predictions of, for this task."""
        predictions = chain.from_iterable(run.predictions for run in self.runs)
        views = (prediction.view for prediction in predictions if prediction.task is task)
        return list(dict.fromkeys(views))

    def by_seed(
        self,
        task: Task,
        view: str,
    ) -> list[list[Prediction]]:
        """Return the ordinary predictions, one list for each seed."""
        return [run.answers(task, view) for run in self.runs]

    def answers(
        self,
        task: Task,
        view: str,
    ) -> list[Prediction]:
        """Return the ordinary predictions of all seeds."""
        return list(chain.from_iterable(self.by_seed(task, view)))


def group_by_series(
    runs: Sequence[RunResult],
) -> dict[tuple[str, str, str], dict[int | None, RunResult]]:
    """Return (model, setting, data) -> seed -> finished run.

    The last of several runs with the same seed counts. The folds of a seed are one run, if all are
    finished.
    """
    groups: dict[tuple[str, str, str], dict[int | None, RunResult]] = {}

    for run in pool_folds(runs):
        if run.finished:
            key = (run.model, run.setting, run.data)
            groups.setdefault(key, {})[run.seed] = run

    return groups


def series_of(runs: Sequence[RunResult]) -> list[Series]:
    """Return the finished runs grouped into series."""
    return [
        Series(
            model=model,
            setting=setting,
            data=data,
            runs=tuple(by_seed.values()),
        )
        for (model, setting, data), by_seed in group_by_series(runs).items()
    ]


def task_views(runs: Sequence[RunResult]) -> list[tuple[str, str]]:
    """Return every scored (task, view): tasks in the order of `Task`, the raw view first."""
    order = {str(task): index for index, task in enumerate(Task)}
    pairs = {(task, view) for run in runs for task, views in run.scores.items() for view in views}

    return sorted(
        pairs, key=lambda pair: (order.get(pair[0], len(order)), pair[1] != "raw", pair[1])
    )
