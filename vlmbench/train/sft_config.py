"""The settings of a run as TRL's SFTConfig."""

from __future__ import annotations

import math
from typing import Any

from vlmbench.backbones.precision import compute_type
from vlmbench.runs.folder import VALIDATION_METRIC
from vlmbench.system import processes
from vlmbench.train.job import TrainJob


def sft_config(job: TrainJob) -> Any:
    """Return the SFTConfig of a job.

    Everything that a run depends on is named, because Unsloth gives SFTConfig other defaults, for
    one 8-bit Adam.
    """
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(job.folder.checkpoints),
        **_steps(job),
        **_optimiser(job),
        **_data(),
        **_device(job),
        **_logs(job),
        **_evaluation(job),
    )


def _steps(job: TrainJob) -> dict[str, Any]:
    """Return how many steps there are, of how many records, and in which order."""
    settings = job.settings
    rows = settings.num_rows // processes.count()
    return {
        "num_train_epochs": settings.epochs,
        "max_steps": -1 if settings.max_steps is None else settings.max_steps,
        "per_device_train_batch_size": rows,
        "per_device_eval_batch_size": rows,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "seed": job.seed,
        "data_seed": job.seed,
    }


def _optimiser(job: TrainJob) -> dict[str, Any]:
    """Return the optimiser and its learning rate schedule."""
    settings = job.settings
    return {
        "optim": "adamw_torch_fused",
        "learning_rate": settings.learning_rate,
        "warmup_steps": warmup_steps(settings.warmup_ratio),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "lr_scheduler_type": str(settings.scheduler),
    }


def warmup_steps(ratio: float) -> float:
    """Return the share of the steps in which the learning rate rises, as transformers takes it.

    There, 1 is one step. The number just below 1 is rounded up to all steps.
    """
    return min(ratio, math.nextafter(1, 0))


def _data() -> dict[str, Any]:
    """Return how batches reach the model: as the backbone made them."""
    import torch

    return {
        "packing": False,
        "padding_free": False,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,  # nothing is cut: a cut could fall among image positions
        "loss_type": "nll",
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def _device(job: TrainJob) -> dict[str, Any]:
    """Return where training runs and in which type."""
    import torch

    gpu = torch.cuda.is_available()
    dtype = compute_type(job.settings.precision)
    return {
        "use_cpu": not gpu,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        "torch_empty_cache_steps": None,
        # Without it each batch waits for the step before, and the GPU for the next batch.
        "accelerator_config": {"non_blocking": gpu},
        "ddp_find_unused_parameters": False,
        "ddp_broadcast_buffers": False,  # nothing that trains has buffers
    }


def _logs(job: TrainJob) -> dict[str, Any]:
    """Return how often training logs, and what it filters: nothing."""
    return {
        "logging_steps": job.settings.log_steps,
        "logging_nan_inf_filter": False,  # a loss that is not finite has to be seen
        "report_to": "none",
        "disable_tqdm": True,
    }


def _evaluation(job: TrainJob) -> dict[str, Any]:
    """Return when to evaluate and save, and which adapter to keep."""
    every, evaluates = job.settings.eval_steps, job.evaluates
    return {
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": every,
        "eval_accumulation_steps": None,
        "prediction_loss_only": True,
        "save_strategy": "steps" if every else "no",
        "save_steps": every or 500,
        "save_total_limit": None,  # checkpoints.keep removes old ones
        "load_best_model_at_end": evaluates,
        "metric_for_best_model": VALIDATION_METRIC.removeprefix("eval_") if evaluates else None,
        "greater_is_better": True,
    }
