"""Supervised fine-tuning: TRL's SFTTrainer with the backbone's own collator, metrics and guards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmbench.config import TrainerConfig
from vlmbench.rundir import RunDir
from vlmbench.types import Sample, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone
    from vlmbench.tracking import Tracker

log = logging.getLogger(__name__)

BEST_METRIC = "balanced_accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """How training went: optimiser steps taken, the step of the adapter that was kept, and where it resumed."""

    steps: int
    best_step: int | None
    best_metric: float | None
    resumed_from: int | None
    stopped_early: bool


def train(
    backbone: Backbone,
    *,
    num_records: int,
    open_record: Callable[[int], Sample],
    watched: Sequence[Callable[[], Sample]],
    judge: Callable[[], dict[str, float]],
    settings: TrainerConfig,
    seed: int,
    cell: RunDir,
    tracker: Tracker,
    title: str,
) -> TrainSummary:
    """Train the backbone's adapter and leave the best one in it and in the cell's folder.

    `open_record(i)` opens one of the `num_records` training samples. `watched` opens the validation samples whose loss
    is followed, and `judge()` gives the real metrics on them: with evaluations, the adapter with the best
    `balanced_accuracy` is kept, else the last one. Raises UserError where the loss stops being a number.
    """
    import torch
    from transformers.trainer_utils import get_last_checkpoint

    torch.use_deterministic_algorithms(not torch.cuda.is_available(), warn_only=True)
    checkpoint = get_last_checkpoint(str(cell.checkpoints)) if settings.resume and cell.checkpoints.exists() else None
    resumed_from = None if checkpoint is None else int(checkpoint.rpartition("-")[2])
    cell.cut_train_log(-1 if resumed_from is None else resumed_from)
    if resumed_from is not None:
        log.info("going on from step %d", resumed_from)
    trainer = _make_trainer(
        backbone,
        train_set=_lazy_dataset(num_records, open_record),
        watch_set=_lazy_dataset(len(watched), lambda index: watched[index]()) if settings.eval_steps else None,
        judge=judge,
        settings=settings,
        seed=seed,
        cell=cell,
        tracker=tracker,
        title=title,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    backbone.save(cell.adapter)
    state = trainer.state
    best = state.best_model_checkpoint
    return TrainSummary(
        steps=state.global_step,
        best_step=None if best is None else int(best.rpartition("-")[2]),
        best_metric=state.best_metric,
        resumed_from=resumed_from,
        stopped_early=state.global_step < state.max_steps,
    )


def _lazy_dataset(length: int, open_record: Callable[[int], Sample]) -> Any:
    """A `datasets.Dataset` of samples that are opened when a batch needs them: memory stays flat."""
    from datasets import Dataset

    numbers = Dataset.from_dict({"index": range(length)})
    return numbers.with_transform(lambda rows: {"sample": [open_record(index) for index in rows["index"]]})


def _sft_config(settings: TrainerConfig, *, seed: int, cell: RunDir, evaluates: bool) -> Any:
    import torch
    from trl import SFTConfig

    gpu = torch.cuda.is_available()
    every = settings.eval_steps
    return SFTConfig(
        output_dir=str(cell.checkpoints),
        num_train_epochs=settings.epochs,
        max_steps=-1 if settings.max_steps is None else settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type=settings.scheduler,
        gradient_checkpointing=settings.gradient_checkpointing,
        logging_steps=settings.log_steps,
        logging_nan_inf_filter=False,  # a loss that is no number has to be seen
        eval_strategy="steps" if evaluates else "no",
        eval_steps=every,
        save_strategy="steps" if every else "no",
        save_steps=every or 500,
        save_total_limit=2,
        load_best_model_at_end=evaluates,
        metric_for_best_model=BEST_METRIC if evaluates else None,
        greater_is_better=True,
        seed=seed,
        data_seed=seed,
        use_cpu=not gpu,
        bf16=gpu,
        dataloader_pin_memory=gpu,
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,  # nothing is cut: a cut could fall among picture positions
        loss_type="nll",
        report_to="none",
        disable_tqdm=True,
    )


def _make_trainer(
    backbone: Backbone,
    *,
    train_set: Any,
    watch_set: Any,
    judge: Callable[[], dict[str, float]],
    settings: TrainerConfig,
    seed: int,
    cell: RunDir,
    tracker: Tracker,
    title: str,
) -> Any:
    from transformers import EarlyStoppingCallback, PrinterCallback
    from trl import SFTTrainer

    class JudgeTrainer(SFTTrainer):  # type: ignore[misc]  # untyped
        """Evaluates with the real metric and stops on a loss that is no number."""

        record_ids: Sequence[str] = ()

        def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
            self.record_ids = inputs.pop("record_ids", ())
            prepared: dict[str, Any] = super()._prepare_inputs(inputs)
            return prepared

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            if not loss.isfinite().all():
                raise UserError(
                    f"step {self.state.global_step + 1}: the loss is {loss.item()} on records "
                    f"{', '.join(self.record_ids)}; look at these records, or lower trainer.learning_rate "
                    f"({settings.learning_rate})"
                )
            return loss

        def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            self.model.eval()
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in judge().items()})
            return output

    def collate(rows: Sequence[dict[str, Sample]]) -> dict[str, Any]:
        samples = [row["sample"] for row in rows]
        ids = [sample.record.id for sample in samples]
        return {**backbone.collate(samples, with_answer=True), "record_ids": ids}

    callbacks = [_log_callback(cell, tracker, title)]
    if settings.early_stopping is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=settings.early_stopping))
    trainer = JudgeTrainer(
        model=backbone.model,
        args=_sft_config(settings, seed=seed, cell=cell, evaluates=watch_set is not None),
        data_collator=collate,
        train_dataset=train_set,
        eval_dataset=watch_set,
        processing_class=backbone.tokenizer,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _log_callback(cell: RunDir, tracker: Tracker, title: str) -> Any:
    from tqdm import tqdm
    from transformers import TrainerCallback

    class LogCallback(TrainerCallback):  # type: ignore[misc]  # untyped
        """One bar with ETA and live figures; every row to the cell's log and to the tracker."""

        bar: Any = None
        figures: dict[str, str]

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.figures = {}
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=title, unit="step")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update(state.global_step - self.bar.n)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            row = {"step": state.global_step, **{name: value for name, value in logs.items() if "runtime" not in name}}
            row = {name: value for name, value in row.items() if not name.endswith("_per_second")}
            if "train_loss" in row:  # the summary at the end, not a step
                return
            cell.append_train_log(row)
            tracker.log(row)
            for name, short in (("loss", "loss"), ("eval_loss", "val_loss"), (f"eval_{BEST_METRIC}", "val_acc")):
                if name in row:
                    self.figures[short] = f"{row[name]:.3f}"
            self.bar.set_postfix(self.figures)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()

    return LogCallback()
