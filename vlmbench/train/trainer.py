"""TRL's SFTTrainer, made to judge.

Import this only when training begins: trl must be imported after Unsloth, and takes seconds.
The private methods of Trainer that are overridden here have to be looked at when the version of
transformers or trl moves: `_build_accelerator_args`, `_get_train_sampler`, `_prepare_inputs`,
`_maybe_log_save_evaluate`, `_run_epoch` and `_save_checkpoint`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate import DistributedDataParallelKwargs
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from vlmbench.backbones.batches import IGNORED, complete_batch, count_positions
from vlmbench.system import processes
from vlmbench.system.files import sync
from vlmbench.train import checkpoints
from vlmbench.train.callbacks import (
    BestInItsFolder,
    LogCallback,
    Patience,
    PruneCallback,
    StopOnSignal,
)
from vlmbench.train.datasets import lazy_dataset
from vlmbench.train.job import TrainJob
from vlmbench.train.sft_config import sft_config
from vlmbench.types import Sample, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.contract import Backbone

MIN_SCALE = 1.0  # of the loss in fp16, as in DeepSpeed: smaller ones mean that training diverges
MIN_STEPS = 20  # the scale begins at 2^16, and halves once a step
BUCKET = 64  # positions: prompts whose lengths differ by less go into one batch as they come


class JudgeTrainer(SFTTrainer):  # type: ignore[misc]  # untyped
    """Train one job: evaluate with the real metric, and stop if the loss is not finite.

    Nothing in a step makes the processor wait for the GPU.
    """

    def __init__(self, backbone: Backbone, job: TrainJob) -> None:
        self.job = job
        self.progress = LogCallback(job.folder, job.tracker, job.title)
        self.pruning = PruneCallback(job.should_prune)
        self.patience = _make_patience(job)
        self.buckets = [round(length / BUCKET) for length in job.prompt_lengths]
        self.record_ids: Sequence[str] = ()
        self.pending_loss: PendingLoss | None = None
        self.new_tokens = 0  # of this process, not yet in the state

        callbacks: list[Any] = [
            self.progress,
            self.pruning,
            StopOnSignal(),
            BestInItsFolder(job.folder.checkpoints),
        ]
        if self.patience is not None:
            callbacks.append(self.patience)

        super().__init__(
            model=backbone.model,
            args=sft_config(job),
            train_dataset=lazy_dataset(job.samples),
            eval_dataset=lazy_dataset(job.validation) if job.evaluates else None,
            data_collator=_make_collator(backbone),
            processing_class=backbone.tokenizer,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        if self.args.fp16:
            widen_trained(self.model)

    def check_loss(self) -> None:
        """Raise UserError if the loss of the last step is NaN or infinite."""
        if self.pending_loss is None:
            return
        pending, self.pending_loss = self.pending_loss, None

        loss = pending.value()
        if not math.isfinite(loss):
            raise UserError(
                f"step {pending.step}: the loss is {loss} on records "
                f"{', '.join(pending.record_ids)}; look at these records, or {self._lower_rate()}"
            )

    def check_scale(self) -> None:
        """Raise UserError if gradients overflow in fp16 however small the scaled loss is."""
        scaler = self.accelerator.scaler
        if scaler is None or scaler.get_scale() >= MIN_SCALE:
            return
        raise UserError(
            f"step {self.state.global_step}: gradients overflow in fp16 in every step, and the "
            f"loss scale fell to {scaler.get_scale():g}; {self._lower_rate()}"
        )

    def count_skipped(self) -> int:
        """Return the steps in which scaled gradients overflowed, so that no weight changed.

        Raise UserError if these are all steps of the training.
        """
        if self.accelerator.scaler is None:
            return 0
        taken = [int(state["step"]) for state in self.optimizer.state.values()]
        if not taken:  # nothing was left to train
            return 0

        steps = self.state.global_step
        if max(taken) == 0:
            raise UserError(
                f"all {steps} steps were skipped, because their scaled gradients overflow in fp16: "
                "the scale is halved after each; train for more steps, such as "
                f"trainer.max_steps={max(MIN_STEPS, 2 * steps)}"
            )
        return int(steps - max(taken))

    def _lower_rate(self) -> str:
        """Return the cure for numbers that are too large."""
        rate = self.job.settings.learning_rate / 10
        bf16 = "" if self.accelerator.scaler is None else ", or train on a GPU that has bf16"
        return f"set a lower trainer.learning_rate, such as {rate:g}{bf16}"

    def patience_ended(self, history: Sequence[dict[str, Any]]) -> bool:
        """Whether early stopping ends training with this history of evaluations."""
        return self.patience is not None and self.patience.is_exhausted(history)

    def restore_model(self) -> None:
        """Undo what training did to the model, except its adapters: the next run may use it."""
        undo_preparation(self.accelerator, self.model)
        if self.job.settings.gradient_checkpointing:
            self.model.get_base_model().gradient_checkpointing_disable()
        self.model.zero_grad(set_to_none=True)

    # Overridden methods of Trainer, in the order in which a step calls them

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._build_accelerator_args(**kwargs)
        for handler in arguments["kwargs_handlers"]:
            if isinstance(handler, DistributedDataParallelKwargs):
                # Without it each gradient is copied to the buffer where it is summed, and back.
                handler.gradient_as_bucket_view = True
        return arguments

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if len(set(self.buckets)) <= 1:
            return super()._get_train_sampler(train_dataset)

        settings = self.job.settings
        rows_of_a_step = settings.num_rows * settings.gradient_accumulation
        return BucketSampler(rows_of_a_step, self.buckets, self.args.seed)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            # A run that broke after its last step, within an epoch: Trainer would take one more.
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: Any
    ) -> tuple[list[Any], Any]:
        """Return the batches of a step, and the number of labels in them over all processes.

        The processors sum that number. On the GPUs, every step would wait for the one before.
        """
        self.args.average_tokens_across_devices = processes.count() == 1
        samples, number = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.args.average_tokens_across_devices = True

        if processes.count() > 1:
            total = processes.sum_over_processes(sum(batch["num_trained"] for batch in samples))
            number = torch.full((), total, device=device)
        return samples, number

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.record_ids = inputs.pop("record_ids", ())
        inputs.pop("num_trained", None)
        num_tokens = inputs.pop("num_tokens", 0)

        if self.model.training:
            self.new_tokens += num_tokens

        prepared: dict[str, Any] = super()._prepare_inputs(complete_batch(inputs))
        return prepared

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss, without SFTTrainer's entropy and accuracy: they wait for the GPU."""
        loss = Trainer.compute_loss(self, model, {**inputs, "use_cache": False}, *args, **kwargs)

        if model.training:
            self.check_loss()  # of the last step, which has arrived by now: nothing waits
            self.pending_loss = PendingLoss(self.state.global_step + 1, self.record_ids, loss)
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        control = self.control
        if control.should_log or control.should_save or control.should_evaluate:
            self.check_loss()
            self.check_scale()
            scaler = self.accelerator.scaler
            if scaler is not None:
                self._metrics["train"]["loss_scale"] = [scaler.get_scale()]

            # A checkpoint keeps the number of all processes: others may go on from it.
            self.state.num_input_tokens_seen += processes.sum_over_processes(self.new_tokens)
            self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]
            self.new_tokens = 0
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Return the validation loss and the job's own validation metrics."""
        with torch.compiler.set_stance("force_eager"):  # code for answers is used too rarely
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        self.model.eval()

        metrics = self.job.validate()
        output.metrics.update(
            {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        )
        return output

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = self.job.folder
        checkpoint = folder.checkpoints / f"checkpoint-{self.state.global_step}"

        with checkpoints.explain_write_errors(checkpoint):
            super()._save_checkpoint(*args, **kwargs)
            self.accelerator.wait_for_everyone()  # each process writes its own random state
            if processes.is_leader():
                if folder.train_log.exists():
                    sync(folder.train_log)
                best = self.state.best_model_checkpoint
                checkpoints.keep(checkpoint, owner=self.job.run_hash, best=best)


class PendingLoss:
    """The loss of a step, on its way from the GPU."""

    def __init__(self, step: int, record_ids: Sequence[str], loss: Any) -> None:
        self.step, self.record_ids = step, record_ids
        self._loss = loss.detach().to("cpu", non_blocking=True)
        self._arrival = torch.cuda.Event() if loss.is_cuda else None
        if self._arrival is not None:
            self._arrival.record()

    def value(self) -> float:
        """Return the loss, after it has arrived."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return float(self._loss)


class BucketSampler(Sampler[int]):  # type: ignore[misc]  # untyped
    """Draw batches from one bucket each; the order depends on seed and epoch alone."""

    def __init__(self, batch_size: int, buckets: Sequence[int], seed: int) -> None:
        self.batch_size, self.buckets = batch_size, list(buckets)
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return len(self.buckets)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from LengthGroupedSampler(self.batch_size, lengths=self.buckets, generator=generator)


def undo_preparation(accelerator: Any, model: Any) -> None:
    """Take accelerate's mixed precision off a model: the next accelerator can add its own."""
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    # unwrap_model leaves this mark, and a marked model gets no mixed precision any more.
    model.__dict__.pop("_is_accelerate_prepared", None)


def widen_trained(model: Any) -> None:
    """Make all trained weights float32: gradients of 16 bits cannot be scaled back.

    TRL makes the adapters of a model of 4 bits bf16, whatever the GPU has.
    """
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def _make_collator(backbone: Backbone) -> Callable[[Sequence[dict[str, Sample]]], dict[str, Any]]:
    """Return a function that makes a training batch of dataset rows."""

    def collate(rows: Sequence[dict[str, Sample]]) -> dict[str, Any]:
        samples = [row["sample"] for row in rows]
        batch = backbone.train_batch(samples)
        return batch | {
            "record_ids": [sample.record.id for sample in samples],
            "num_tokens": count_positions(batch),
            "num_trained": int((batch["labels"][:, 1:] != IGNORED).sum()),
        }

    return collate


def _make_patience(job: TrainJob) -> Patience | None:
    evaluations = job.settings.early_stopping
    return None if evaluations is None else Patience(evaluations)
