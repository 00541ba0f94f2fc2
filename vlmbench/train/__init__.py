"""Supervised fine-tuning: TRL's SFTTrainer with the backbone's own collator, metrics and guards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmbench import interrupt, processes
from vlmbench.backbones.gpu import naming_faults
from vlmbench.config import TrainerConfig
from vlmbench.files import seal, unseal
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
    pruned: bool


def train(
    backbone: Backbone,
    *,
    num_records: int,
    open_record: Callable[[int], Sample],
    watched: Sequence[Callable[[], Sample]],
    judge: Callable[[], dict[str, float]],
    should_prune: Callable[[], bool],
    settings: TrainerConfig,
    seed: int,
    cell: RunDir,
    content: str,
    tracker: Tracker,
    title: str,
    lengths: Sequence[int] | None = None,
) -> TrainSummary:
    """Train the backbone's adapter and leave the best one in it and in the cell's folder.

    It goes on from the last whole checkpoint of a run of the same `content`. `open_record(i)` opens one of the
    `num_records` training samples; `lengths` are the positions of their prompts, by which batches are put together
    where they differ much. `watched` opens the validation samples whose loss is followed, and `judge()` gives the real
    metrics on them: with evaluations, the adapter with the best `balanced_accuracy` is kept, else the last one.
    `should_prune()` is asked after each evaluation whether to stop.

    Raises UserError where the loss stops being a number, the disk is full or the GPU fails; FullMemoryError where its
    memory is full; Stopped after the step in which the process was asked to.
    """
    import torch

    from vlmbench.train import checkpoints
    from vlmbench.train.trainer import make_trainer

    if settings.num_rows % processes.count():
        raise UserError(
            f"trainer.batch_size={settings.num_rows}: {processes.count()} processes cannot share a step's records "
            "evenly; choose a multiple of their number"
        )
    torch.use_deterministic_algorithms(not torch.cuda.is_available(), warn_only=True)
    checkpoint = None
    if settings.resume:
        checkpoint = processes.from_leader(lambda: checkpoints.last_whole(cell.checkpoints, of=content))
    resumed_from = None if checkpoint is None else checkpoints.step_of(checkpoint)
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
        content=content,
        tracker=tracker,
        title=title,
        lengths=lengths,
    )
    if checkpoint is not None and trainer.was_patient_enough(checkpoints.read_state(checkpoint).log_history):
        trainer.args.max_steps = resumed_from  # it was stopping when it was broken off
    if resumed_from is not None and resumed_from in cell.watched() and processes.from_leader(should_prune):
        trainer.args.max_steps = trainer.pruning.step = resumed_from  # so it was
    full = (
        f"with {settings.num_rows} records a step; set trainer.batch_size=auto or a smaller one, or "
        "trainer.gradient_checkpointing=true, or lower store.device_gb"
    )
    with (
        interrupt.after_steps(),
        checkpoints.reading(checkpoint),
        naming_faults(lambda: f"step {trainer.state.global_step + 1}", full=full),
    ):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.check_loss()
    trainer.leave_model()
    if processes.is_leader():
        with checkpoints.writing(cell.adapter):
            unseal(cell.adapter)
            backbone.save(cell.adapter)
            seal(cell.adapter, of=content)
    state = trainer.state
    best = state.best_model_checkpoint
    return TrainSummary(
        steps=state.global_step,
        first_step_at=trainer.progress.first_step_at,
        best_step=None if best is None else int(best.rpartition("-")[2]),
        best_metric=state.best_metric,
        resumed_from=resumed_from,
        pruned=trainer.pruning.step is not None,
    )


def _lazy_dataset(length: int, open_record: Callable[[int], Sample]) -> Any:
    """A `datasets.Dataset` of samples that are opened when a batch needs them: memory stays flat."""
    from datasets import Dataset

    # It warns that it cannot name this function for its cache on disk, which is not used here.
    logging.getLogger("datasets.fingerprint").setLevel(logging.ERROR)
    numbers = Dataset.from_dict({"index": range(length)})
    return numbers.with_transform(lambda rows: {"sample": [open_record(index) for index in rows["index"]]})
