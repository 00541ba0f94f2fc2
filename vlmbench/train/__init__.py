"""Supervised fine-tuning: TRL's SFTTrainer with the backbone's own collator, metrics and guards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmbench import processes
from vlmbench.config import TrainerConfig
from vlmbench.rundir import RunDir
from vlmbench.types import Sample, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone
    from vlmbench.tracking import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """How training went: optimiser steps taken, the step of the adapter that was kept, and where it resumed."""

    steps: int
    first_step_at: float | None  # time.monotonic() when the first one was done; None where none was taken
    best_step: int | None
    best_metric: float | None
    resumed_from: int | None
    stopped_early: bool
    pruned: bool


def train(
    backbone: Backbone,
    *,
    num_records: int,
    open_record: Callable[[int], Sample],
    watched: Sequence[Callable[[], Sample]],
    judge: Callable[[], dict[str, float]],
    should_prune: Callable[[], bool] = lambda: False,
    settings: TrainerConfig,
    seed: int,
    cell: RunDir,
    tracker: Tracker,
    title: str,
    lengths: Sequence[int] | None = None,
) -> TrainSummary:
    """Train the backbone's adapter and leave the best one in it and in the cell's folder.

    `open_record(i)` opens one of the `num_records` training samples; `lengths` are the positions of their prompts, by
    which batches are put together where they differ much. `watched` opens the validation samples whose loss
    is followed, and `judge()` gives the real metrics on them: with evaluations, the adapter with the best
    `balanced_accuracy` is kept, else the last one. `should_prune()` is asked after each evaluation whether to stop.
    Raises UserError where the loss stops being a number.
    """
    import torch
    from transformers.trainer_utils import get_last_checkpoint

    from vlmbench.train.trainer import make_trainer

    if settings.num_rows % processes.count():
        raise UserError(
            f"trainer.batch_size={settings.num_rows}: {processes.count()} processes cannot share a step's records "
            "evenly; choose a multiple of their number"
        )
    torch.use_deterministic_algorithms(not torch.cuda.is_available(), warn_only=True)
    checkpoint = get_last_checkpoint(str(cell.checkpoints)) if settings.resume and cell.checkpoints.exists() else None
    resumed_from = None if checkpoint is None else int(checkpoint.rpartition("-")[2])
    cell.cut_train_log(-1 if resumed_from is None else resumed_from)
    if resumed_from is not None:
        log.info("going on from step %d", resumed_from)
    trainer = make_trainer(
        backbone,
        train_set=_lazy_dataset(num_records, open_record),
        watch_set=_lazy_dataset(len(watched), lambda index: watched[index]()) if settings.eval_steps else None,
        judge=judge,
        should_prune=should_prune,
        settings=settings,
        seed=seed,
        cell=cell,
        tracker=tracker,
        title=title,
        lengths=lengths,
    )
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"step {trainer.state.global_step + 1}: the GPU's memory is full with {settings.num_rows} records a step; "
            "set trainer.batch_size=auto or a smaller one, or trainer.gradient_checkpointing=true, or lower "
            f"store.device_gb ({error})"
        ) from error
    trainer.check_loss()
    trainer.leave_model()
    if processes.is_leader():
        backbone.save(cell.adapter)
    state = trainer.state
    best = state.best_model_checkpoint
    return TrainSummary(
        steps=state.global_step,
        first_step_at=trainer.progress.first_step_at,
        best_step=None if best is None else int(best.rpartition("-")[2]),
        best_metric=state.best_metric,
        resumed_from=resumed_from,
        stopped_early=state.global_step < state.max_steps,
        pruned=trainer.pruning.step is not None,
    )


def _lazy_dataset(length: int, open_record: Callable[[int], Sample]) -> Any:
    """A `datasets.Dataset` of samples that are opened when a batch needs them: memory stays flat."""
    from datasets import Dataset

    numbers = Dataset.from_dict({"index": range(length)})
    return numbers.with_transform(lambda rows: {"sample": [open_record(index) for index in rows["index"]]})
