"""TRL's SFTTrainer made to judge. Imported when training begins: trl must come after Unsloth, and takes seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate import DistributedDataParallelKwargs
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from vlmbench import processes
from vlmbench.backbones.base import IGNORED, count_positions, ready
from vlmbench.config import TrainerConfig
from vlmbench.files import sync
from vlmbench.rundir import WATCHED, RunDir
from vlmbench.train import checkpoints
from vlmbench.train.callbacks import BestInItsFolder, LogCallback, Patience, PruneCallback, StopWhenAsked
from vlmbench.types import Sample, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone
    from vlmbench.tracking import Tracker

BEST_METRIC = WATCHED.removeprefix("eval_")
BUCKET = 64  # positions: prompts whose lengths differ by less are batched as they come


def make_trainer(
    backbone: Backbone,
    *,
    train_set: Any,
    watch_set: Any,
    judge: Callable[[], dict[str, float]],
    should_prune: Callable[[], bool],
    settings: TrainerConfig,
    seed: int,
    cell: RunDir,
    content: str,
    tracker: Tracker,
    title: str,
    lengths: Sequence[int] | None,
) -> JudgeTrainer:
    """The trainer of one run. `train_set` and `watch_set` are datasets of samples; what else, see `train`."""

    def collate(rows: Sequence[dict[str, Sample]]) -> dict[str, Any]:
        samples = [row["sample"] for row in rows]
        batch = backbone.train_batch(samples)
        ids = [sample.record.id for sample in samples]
        num_tokens = count_positions(batch)
        num_trained = int((batch["labels"][:, 1:] != IGNORED).sum())
        return batch | {"record_ids": ids, "num_tokens": num_tokens, "num_trained": num_trained}

    progress, pruning = LogCallback(cell, tracker, title), PruneCallback(should_prune)
    callbacks: list[Any] = [progress, pruning, StopWhenAsked(), BestInItsFolder(cell.checkpoints)]
    patience = None if settings.early_stopping is None else Patience(settings.early_stopping)
    if patience is not None:
        callbacks.append(patience)
    trainer = JudgeTrainer(
        model=backbone.model,
        args=_sft_config(settings, seed=seed, cell=cell, evaluates=watch_set is not None),
        data_collator=collate,
        train_dataset=train_set,
        eval_dataset=watch_set,
        processing_class=backbone.tokenizer,
        callbacks=callbacks,
    )
    trainer.judge, trainer.settings, trainer.progress, trainer.pruning = judge, settings, progress, pruning
    trainer.cell, trainer.content, trainer.patience = cell, content, patience
    trainer.buckets = [round(length / BUCKET) for length in lengths or ()]
    trainer.remove_callback(PrinterCallback)
    return trainer


def _sft_config(settings: TrainerConfig, *, seed: int, cell: RunDir, evaluates: bool) -> Any:
    gpu = torch.cuda.is_available()
    every = settings.eval_steps
    # Unsloth gives SFTConfig other defaults (8-bit Adam, for one): all that a run depends on is named.
    return SFTConfig(
        output_dir=str(cell.checkpoints),
        optim="adamw_torch_fused",
        torch_empty_cache_steps=None,
        eval_accumulation_steps=None,
        packing=False,
        padding_free=False,
        num_train_epochs=settings.epochs,
        max_steps=-1 if settings.max_steps is None else settings.max_steps,
        per_device_train_batch_size=settings.num_rows // processes.count(),
        per_device_eval_batch_size=settings.num_rows // processes.count(),
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
        save_total_limit=None,  # checkpoints.keep sees to it
        load_best_model_at_end=evaluates,
        metric_for_best_model=BEST_METRIC if evaluates else None,
        greater_is_better=True,
        seed=seed,
        data_seed=seed,
        use_cpu=not gpu,
        bf16=gpu,
        dataloader_pin_memory=gpu,
        accelerator_config={"non_blocking": gpu},  # else each batch waits for the step before, and the GPU for the next
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # they are the same in all processes: nothing that trains has any
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,  # nothing is cut: a cut could fall among picture positions
        loss_type="nll",
        report_to="none",
        disable_tqdm=True,
    )


class JudgeTrainer(SFTTrainer):  # type: ignore[misc]  # untyped
    """Evaluates with the real metric, stops on a loss that is no number, and does not itself make the processor wait
    for the GPU within a step."""

    judge: Callable[[], dict[str, float]]
    settings: TrainerConfig
    progress: LogCallback
    pruning: PruneCallback
    cell: RunDir
    content: str  # of the run: its checkpoints serve no other
    patience: Patience | None
    buckets: Sequence[int] = ()  # of each training record's length
    record_ids: Sequence[str] = ()
    unchecked: UncheckedLoss | None = None

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._build_accelerator_args(**kwargs)
        for handler in arguments["kwargs_handlers"]:
            if isinstance(handler, DistributedDataParallelKwargs):
                handler.gradient_as_bucket_view = True  # else each gradient is copied to where it is summed, and back
        return arguments

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if len(set(self.buckets)) <= 1:
            return super()._get_train_sampler(train_dataset)
        rows = self.settings.num_rows * self.settings.gradient_accumulation  # of a step, however it is cut
        return BucketSampler(rows, self.buckets, self.args.seed)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The batches of a step, and how many labels all processes have in them. Summed on the GPUs, that number would
        make every step wait for the one before."""
        self.args.average_tokens_across_devices = processes.count() == 1
        samples, number = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.args.average_tokens_across_devices = True
        if processes.count() > 1:
            total = processes.sum_of(sum(batch["num_trained"] for batch in samples))
            number = torch.full((), total, device=device)
        return samples, number

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.record_ids = inputs.pop("record_ids", ())
        inputs.pop("num_trained", None)
        num_tokens = inputs.pop("num_tokens", 0)
        if self.model.training:
            self.state.num_input_tokens_seen += num_tokens  # a checkpoint keeps it
            self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]
        prepared: dict[str, Any] = super()._prepare_inputs(ready(inputs))
        return prepared

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        # Not SFTTrainer's: its entropy and token accuracy are read off the GPU in every step.
        loss = Trainer.compute_loss(self, model, {**inputs, "use_cache": False}, *args, **kwargs)
        if model.training:
            self.check_loss()  # the last step's, which is there by now: to look at it makes nothing wait
            self.unchecked = UncheckedLoss(self.state.global_step + 1, self.record_ids, loss)
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_log or self.control.should_save or self.control.should_evaluate:
            self.check_loss()
        if self.control.should_log and processes.count() > 1:
            self._metrics["train"]["num_tokens"] = [processes.sum_of(self.state.num_input_tokens_seen)]
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            # Broken off after its last step, in the middle of an epoch: Trainer would take one more.
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = self.cell.checkpoints / f"checkpoint-{self.state.global_step}"
        with checkpoints.writing(folder):
            super()._save_checkpoint(*args, **kwargs)
            self.accelerator.wait_for_everyone()  # each process writes its own random state
            if processes.is_leader():
                if self.cell.train_log.exists():
                    sync(self.cell.train_log)
                checkpoints.keep(folder, of=self.content, best=self.state.best_model_checkpoint)

    def check_loss(self) -> None:
        """Raise UserError where the last step's loss was no number."""
        if self.unchecked is None:
            return
        unchecked, self.unchecked = self.unchecked, None
        loss = unchecked.value()
        if not math.isfinite(loss):
            raise UserError(
                f"step {unchecked.step}: the loss is {loss} on records {', '.join(unchecked.record_ids)}; look at "
                f"these records, or lower trainer.learning_rate ({self.settings.learning_rate})"
            )

    def was_patient_enough(self, history: Sequence[dict[str, Any]]) -> bool:
        """Whether training ends early with this history of evaluations."""
        return self.patience is not None and self.patience.is_exhausted(history)

    def leave_model(self) -> None:
        """Take back what training did to the model, but for its adapters: the next run may use it."""
        undo_preparation(self.accelerator, self.model)
        if self.settings.gradient_checkpointing:
            self.model.get_base_model().gradient_checkpointing_disable()
        self.model.zero_grad(set_to_none=True)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        self.model.eval()
        judged = processes.from_leader(self.judge)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in judged.items()})
        return output


class UncheckedLoss:
    """A step's loss on its way from the GPU."""

    def __init__(self, step: int, record_ids: Sequence[str], loss: Any) -> None:
        self.step, self.record_ids = step, record_ids
        self._loss = loss.detach().to("cpu", non_blocking=True)
        self._arrival = torch.cuda.Event() if loss.is_cuda else None
        if self._arrival is not None:
            self._arrival.record()

    def value(self) -> float:
        if self._arrival is not None:
            self._arrival.synchronize()
        return float(self._loss)


def undo_preparation(accelerator: Any, model: Any) -> None:
    """Take accelerate's mixed precision off a model, so that the next accelerator puts its own on."""
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    # unwrap_model leaves this mark on, and a marked model gets no mixed precision any more.
    model.__dict__.pop("_is_accelerate_prepared", None)


class BucketSampler(Sampler[int]):  # type: ignore[misc]  # untyped
    """Batches from one bucket each, in an order that depends on seed and epoch alone: a resumed run repeats it."""

    def __init__(self, batch_size: int, buckets: Sequence[int], seed: int) -> None:
        self.batch_size, self.buckets, self.seed, self.epoch = batch_size, list(buckets), seed, 0

    def __len__(self) -> int:
        return len(self.buckets)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from LengthGroupedSampler(self.batch_size, lengths=self.buckets, generator=generator)
