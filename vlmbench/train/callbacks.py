"""Work beside the steps: the log, stopping on a signal, stopping when nothing improves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from transformers import TrainerCallback

from vlmbench.runs.folder import VALIDATION_METRIC, RunDir
from vlmbench.system import phases, processes, signals

if TYPE_CHECKING:
    from vlmbench.tracking.tracker import Tracker

# Figure in the training log -> its short name beside the progress bar.
BAR_FIGURES = {"loss": "loss", "eval_loss": "val_loss", VALIDATION_METRIC: "val_acc"}


class LogCallback(TrainerCallback):  # type: ignore[misc]  # untyped
    """Show one progress bar with figures; write every row to the run's log and to the tracker."""

    def __init__(self, folder: RunDir, tracker: Tracker, title: str) -> None:
        self.folder, self.tracker, self.title = folder, tracker, title
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
            phases.go_on_as(phases.TRAINING)
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any
    ) -> None:
        if "train_loss" in logs:  # the summary at the end, not a step
            return
        figures = {name: value for name, value in logs.items() if not _is_speed(name)}
        if not math.isfinite(figures.get("grad_norm", 0.0)):
            del figures["grad_norm"]  # in fp16: the scaled gradients overflowed, no step was taken
        row = {"step": state.global_step, **figures}

        self.folder.append_train_log(row)
        # Evaluations have their own steps: their trained tokens are not those of the last loss.
        self.tracker.log({"num_tokens": state.num_input_tokens_seen, **row})

        for name, short in BAR_FIGURES.items():
            if name in row:
                self.figures[short] = f"{row[name]:.3f}"
        self.bar.set_postfix(self.figures)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


class StopOnSignal(TrainerCallback):  # type: ignore[misc]  # untyped
    """Save a checkpoint and end after the step in which a signal came, in this process or another.

    Several processes agree after each step, where they wait for each other anyway: all stop after
    the same one, and within `grace_s` however rarely they log.
    """

    def __init__(self) -> None:
        self.stops = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stops = processes.any_process(signals.stop_requested())
        if self.stops:
            control.should_log = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Not earlier: a checkpoint keeps the control, with which a resumed run goes on.
        if self.stops or (processes.count() == 1 and signals.stop_requested()):
            signals.request_stop()
            control.should_training_stop = True


class Patience(TrainerCallback):  # type: ignore[misc]  # untyped
    """Stop after so many evaluations without a better balanced accuracy.

    It counts in the run's own history: a resumed run stops where it would have stopped.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_exhausted(state.log_history):
            control.should_training_stop = True

    def is_exhausted(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the best of the evaluations in `history` is `patience` or more of them ago."""
        values = [row[VALIDATION_METRIC] for row in history if VALIDATION_METRIC in row]
        if not values:
            return False
        since_best = len(values) - 1 - values.index(max(values))
        return since_best >= self.patience


class PruneCallback(TrainerCallback):  # type: ignore[misc]  # untyped
    """Stop after an evaluation, except the last, if `should_prune()`; `step` is then its step."""

    def __init__(self, should_prune: Callable[[], bool]) -> None:
        self.should_prune = should_prune
        self.step: int | None = None

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        is_last = state.global_step >= state.max_steps
        if not is_last and self.should_prune():
            self.step = state.global_step
            control.should_training_stop = True


class BestInItsFolder(TrainerCallback):  # type: ignore[misc]  # untyped
    """Find the best checkpoint beside the one that training resumes from, in a moved folder too."""

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.best_model_checkpoint is not None:
            name = Path(state.best_model_checkpoint).name
            state.best_model_checkpoint = str(self.checkpoints / name)


def _is_speed(name: str) -> bool:
    """Whether a figure of Trainer's log tells a speed, which the log leaves out."""
    return "runtime" in name or name.endswith("_per_second")
