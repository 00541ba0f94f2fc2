"""A training: what it works on, and how it went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmbench.config import TrainerConfig
from vlmbench.runs.folder import RunDir
from vlmbench.types import Sample

if TYPE_CHECKING:
    from vlmbench.tracking.tracker import Tracker


def never() -> bool:
    """Return False: do not prune."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Everything that a training needs beside its model.

    `samples` train and `validation` gives the loss that is followed; both open a sample when it is
    indexed. `prompt_lengths` (positions) put samples of like length into one batch. `validate()`
    returns metrics of the validation samples, and `should_prune()` is called after each evaluation;
    both return the same in every process.
    """

    samples: Sequence[Sample]
    settings: TrainerConfig
    seed: int
    folder: RunDir
    run_hash: str
    title: str
    tracker: Tracker
    validation: Sequence[Sample] = ()
    prompt_lengths: Sequence[int] = ()
    validate: Callable[[], dict[str, float]] = dict
    should_prune: Callable[[], bool] = never

    @property
    def evaluates(self) -> bool:
        """Whether training stops from time to time to evaluate."""
        return self.settings.eval_steps is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """How training went.

    `steps` are optimiser steps. `first_step_at` is `time.monotonic()` after the first; None: no
    step was taken. `best_step` is the step of the adapter that was kept.
    """

    steps: int
    first_step_at: float | None
    best_step: int | None
    best_metric: float | None
    resumed_from: int | None
    pruned: bool
