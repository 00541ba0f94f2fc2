"""What happens beside the steps: the log, stopping when asked, stopping when nothing gets better."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from transformers import TrainerCallback

from vlmbench import interrupt, processes
from vlmbench.rundir import WATCHED, RunDir

if TYPE_CHECKING:
    from vlmbench.tracking import Tracker


class LogCallback(TrainerCallback):  # type: ignore[misc]  # untyped
    """One bar with ETA and live figures; every row to the cell's log and to the tracker."""

    def __init__(self, cell: RunDir, tracker: Tracker, title: str) -> None:
        self.cell, self.tracker, self.title = cell, tracker, title
        self.bar: Any = None
        self.first_step_at: float | None = None
        self.figures: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.title,
            unit="step",
            disable=not processes.is_leader(),
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.first_step_at is None:
            self.first_step_at = time.monotonic()
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        row = {"step": state.global_step, **{name: value for name, value in logs.items() if "runtime" not in name}}
        row = {name: value for name, value in row.items() if not name.endswith("_per_second")}
        if "train_loss" in row:  # the summary at the end, not a step
            return
        self.cell.append_train_log(row)
        self.tracker.log(row)
        for name, short in (("loss", "loss"), ("eval_loss", "val_loss"), (WATCHED, "val_acc")):
            if name in row:
                self.figures[short] = f"{row[name]:.3f}"
        self.bar.set_postfix(self.figures)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


class StopWhenAsked(TrainerCallback):  # type: ignore[misc]  # untyped
    """After the step in which this process, or another one of the run, was asked to stop: a checkpoint, and the end.

    Several processes agree where they wait for each other anyway, so that all of them stop after one step.
    """

    def __init__(self) -> None:
        self.stops = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if processes.count() == 1:
            self.stops = interrupt.asked()
        elif control.should_log or control.should_save or control.should_evaluate:
            self.stops = processes.any_of(interrupt.asked())
        if self.stops:
            control.should_log = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Only now: what a checkpoint says of the control is what the run goes on with.
        if self.stops or (processes.count() == 1 and interrupt.asked()):
            interrupt.stop_as_others()
            control.should_training_stop = True


class Patience(TrainerCallback):  # type: ignore[misc]  # untyped
    """Stops after so many evaluations without a better balanced accuracy, counted in the run's own history: a run that
    goes on from a checkpoint stops where it would have stopped."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_exhausted(state.log_history):
            control.should_training_stop = True

    def is_exhausted(self, history: Sequence[Mapping[str, Any]]) -> bool:
        figures = [row[WATCHED] for row in history if WATCHED in row]
        return bool(figures) and len(figures) - 1 - figures.index(max(figures)) >= self.patience


class PruneCallback(TrainerCallback):  # type: ignore[misc]  # untyped
    """Stops training after an evaluation, before the last, where `should_prune()` says so; `step` is then its step."""

    def __init__(self, should_prune: Callable[[], bool]) -> None:
        self.should_prune = should_prune
        self.step: int | None = None

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step < state.max_steps and processes.from_leader(self.should_prune):
            self.step = state.global_step
            control.should_training_stop = True


class BestInItsFolder(TrainerCallback):  # type: ignore[misc]  # untyped
    """Finds the best checkpoint beside the one that a run goes on from, also where the folder was moved."""

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.best_model_checkpoint is not None:
            state.best_model_checkpoint = str(self.checkpoints / Path(state.best_model_checkpoint).name)
