"""Supervised fine-tuning: TRL's SFTTrainer with the backbone's own collator, metrics and guards."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmbench.backbones.devices import explain_gpu_errors
from vlmbench.system import processes, signals
from vlmbench.system.files import seal, unseal
from vlmbench.train.job import TrainJob, TrainSummary
from vlmbench.types import UserError

if TYPE_CHECKING:
    from vlmbench.backbones.contract import Backbone
    from vlmbench.train.trainer import JudgeTrainer

__all__ = ["TrainJob", "TrainSummary", "train"]

log = logging.getLogger(__name__)


def train(backbone: Backbone, job: TrainJob) -> TrainSummary:
    """Train the backbone's adapter; leave the best one in the backbone and in the run's folder.

    Training goes on from the last whole checkpoint of the same `run_hash`. With evaluations, the
    adapter with the best `balanced_accuracy` is kept, otherwise the last one.

    Raise UserError if the loss is not finite, fp16 allows no step, the disk is full or the GPU
    fails. Raise FullMemoryError if the GPU's memory is full, and Stopped after the step in which a
    signal came.
    """
    import torch

    from vlmbench.train import checkpoints
    from vlmbench.train.trainer import JudgeTrainer

    _check_batch_size(job)
    torch.use_deterministic_algorithms(not torch.cuda.is_available(), warn_only=True)

    checkpoint = _last_checkpoint(job)
    resumed_from = None if checkpoint is None else checkpoints.step_of(checkpoint)
    job.folder.cut_train_log(-1 if resumed_from is None else resumed_from)

    if checkpoint is None:  # a checkpoint holds the result
        backbone.prepare_training(job.samples)
    trainer = JudgeTrainer(backbone, job)
    if checkpoint is not None and resumed_from is not None:
        log.info("resuming from step %d", resumed_from)
        _end_if_it_was_ending(trainer, job, checkpoint, resumed_from)

    memory_cure = (
        f"with {job.settings.num_rows} records a step; set trainer.batch_size=auto or a smaller "
        "number, or trainer.gradient_checkpointing=true, or lower store.device_gb"
    )
    with (
        signals.stop_after_step(),
        checkpoints.explain_load_errors(checkpoint),
        explain_gpu_errors(lambda: f"step {trainer.state.global_step + 1}", full=memory_cure),
    ):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.check_loss()
    trainer.check_scale()
    skipped = trainer.count_skipped()
    if skipped:
        log.info("in %d steps scaled gradients overflowed in fp16: they were skipped", skipped)
    trainer.restore_model()

    _save_adapter(backbone, job)
    return _summary(trainer, resumed_from)


def _check_batch_size(job: TrainJob) -> None:
    """Raise UserError unless the processes of the run can share a step's records evenly."""
    rows, count = job.settings.num_rows, processes.count()
    if rows % count:
        raise UserError(
            f"trainer.batch_size must be a multiple of {count}, the number of processes, "
            f"got {rows}; set trainer.batch_size={count * max(1, rows // count)}"
        )


@processes.from_leader
def _last_checkpoint(job: TrainJob) -> Path | None:
    """Return the checkpoint from which training goes on; None to start anew."""
    from vlmbench.train import checkpoints

    if not job.settings.resume:
        return None
    return checkpoints.last_whole(job.folder.checkpoints, owner=job.run_hash)


def _end_if_it_was_ending(
    trainer: JudgeTrainer, job: TrainJob, checkpoint: Path, step: int
) -> None:
    """Take no further step if the broken run was about to end by early stopping or pruning."""
    from vlmbench.train import checkpoints

    if trainer.patience_ended(checkpoints.read_state(checkpoint).log_history):
        trainer.args.max_steps = step

    was_evaluated = step in job.folder.validation_curve()
    if was_evaluated and job.should_prune():
        trainer.args.max_steps = trainer.pruning.step = step


def _save_adapter(backbone: Backbone, job: TrainJob) -> None:
    from vlmbench.train import checkpoints

    if not processes.is_leader():
        return
    adapter = job.folder.adapter
    with checkpoints.explain_write_errors(adapter):
        unseal(adapter)
        backbone.save(adapter)
        seal(adapter, of=job.run_hash)


def _summary(trainer: Any, resumed_from: int | None) -> TrainSummary:
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
