"""Training, evaluation, and what is told to others of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vlmbench.config.model import Engine, Vision
from vlmbench.config.registry import check_range
from vlmbench.types import UserError

AUTO = "auto"
AUTO_WITHOUT_GPU = 8  # records a step


@dataclass(kw_only=True)
class TrainerConfig:
    """conf/trainer: supervised fine-tuning."""

    engine: Engine = Engine.auto
    vision: Vision = Vision.frozen
    epochs: float = 3.0
    max_steps: int | None = None  # None: as many as the epochs take
    # Records a step; auto: as many of the longest as fit on the GPU. Any: OmegaConf fails to merge `int | str`.
    batch_size: Any = 8
    gradient_accumulation: int = 1
    learning_rate: float = 2e-4
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    scheduler: str = "cosine"
    gradient_checkpointing: bool = False
    max_tokens: int | None = None  # longest record in tokens, None: the model's own limit; a longer one is an error
    log_steps: int = 5
    eval_steps: int | None = 50  # None: never while training
    eval_records: int = 200  # validation records scored at each evaluation
    early_stopping: int | None = None  # evaluations without a better balanced accuracy before stopping
    resume: bool = True  # go on from the last checkpoint of an unfinished cell

    def __post_init__(self) -> None:
        check_range("trainer.epochs", self.epochs, 0.001)
        check_range("trainer.max_steps", self.max_steps, 1)
        if self.batch_size != AUTO and type(self.batch_size) is not int:
            raise UserError(f"trainer.batch_size={self.batch_size}: it must be a whole number or {AUTO}")
        check_range("trainer.batch_size", self.num_rows, 1)
        check_range("trainer.gradient_accumulation", self.gradient_accumulation, 1)
        check_range("trainer.learning_rate", self.learning_rate, 0, 1)
        check_range("trainer.warmup_ratio", self.warmup_ratio, 0, 1)
        check_range("trainer.weight_decay", self.weight_decay, 0)
        check_range("trainer.max_grad_norm", self.max_grad_norm, 0)
        check_range("trainer.max_tokens", self.max_tokens, 1)
        check_range("trainer.log_steps", self.log_steps, 1)
        check_range("trainer.eval_steps", self.eval_steps, 1)
        check_range("trainer.eval_records", self.eval_records, 1)
        check_range("trainer.early_stopping", self.early_stopping, 1)
        if self.early_stopping is not None and self.eval_steps is None:
            raise UserError("trainer.early_stopping needs evaluations to count; set trainer.eval_steps=<steps>")

    @property
    def num_rows(self) -> int:
        """Records a step; with `auto`, what a machine without a GPU takes."""
        return self.batch_size if isinstance(self.batch_size, int) else AUTO_WITHOUT_GPU

    def planned_steps(self, num_records: int) -> int:
        """Optimiser steps that training on so many records takes, early stopping aside."""
        if self.max_steps is not None:
            return self.max_steps
        batches = math.ceil(num_records / self.num_rows)
        return math.ceil(max(1, math.ceil(batches / self.gradient_accumulation)) * self.epochs)


@dataclass(kw_only=True)
class PrunerConfig:
    """conf/pruner: cells that look bad beside a sweep's finished ones are not trained to the end.

    After an evaluation, a cell stops whose best value so far is not among the upper `percentile` of what those had at
    the same step: with 50, the median stopping rule (Golovin et al. 2017, doi:10.1145/3097983.3098043).
    """

    enabled: bool = True
    percentile: float = 50.0
    startup_trials: int = 5  # finished cells that there must be
    warmup_steps: int = 0  # before this step nothing is stopped

    def __post_init__(self) -> None:
        check_range("pruner.percentile", self.percentile, 0, 100)
        check_range("pruner.startup_trials", self.startup_trials, 1)
        check_range("pruner.warmup_steps", self.warmup_steps, 0)


class ScoreMethod(StrEnum):
    score = "score"  # compare the labels' log-probabilities
    generate = "generate"  # write an answer and parse it


@dataclass(kw_only=True)
class EvalConfig:
    """conf/eval: how held-out records are answered."""

    method: ScoreMethod = ScoreMethod.score
    batch_size: int = 16
    max_new_tokens: int = 32
    limit: int | None = None  # held-out records per task and view, None: all
    probes: bool = True  # swapped, self-paired, blank-reference and closing pairs

    def __post_init__(self) -> None:
        check_range("eval.batch_size", self.batch_size, 1)
        check_range("eval.max_new_tokens", self.max_new_tokens, 1)
        check_range("eval.limit", self.limit, 1)


class TrackingMode(StrEnum):
    online = "online"
    offline = "offline"
    off = "off"


@dataclass(kw_only=True)
class TrackingConfig:
    """conf/tracking: Weights & Biases."""

    mode: TrackingMode = TrackingMode.offline
    project: str = "vlmbench"
    entity: str | None = None
    sample_predictions: int = 40  # rows of the predictions table
    adapter: bool = True  # log the adapter as an artifact
    report: bool = True  # log a sweep's report, its pictures included, as a closing run
    timeout_s: float = 60.0  # that W&B's servers may make a run wait, at its start and at its end

    def __post_init__(self) -> None:
        check_range("tracking.timeout_s", self.timeout_s, 1)
