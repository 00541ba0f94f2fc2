"""Settings of training, evaluation, pruning and experiment tracking."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from vlmbench.config.costs import CostConfig
from vlmbench.config.model import Engine, Precision, Vision
from vlmbench.config.settings import Settings, setting
from vlmbench.types import UserError

AUTO = "auto"
MAX_PROJECT = 128  # characters of the name of a W&B project
PROJECT_NOT = re.compile(r"[/\\#?%:]")  # characters that W&B refuses in it
AUTO_WITHOUT_GPU = 8  # records a step
AUTO_WITH_GPU = 64  # records a step, where only their order of magnitude counts
ANSWER_ROWS = (16, 32, 64)  # records a forward pass, of which eval.batch_size=auto takes one
MAX_POSITIONS = 16_384  # of a forward pass that answers


class Scheduler(StrEnum):
    """The learning rate schedules of transformers that need no settings of their own."""

    linear = "linear"
    cosine = "cosine"
    cosine_with_restarts = "cosine_with_restarts"
    polynomial = "polynomial"
    constant = "constant"  # without a warm-up
    constant_with_warmup = "constant_with_warmup"
    inverse_sqrt = "inverse_sqrt"


POLYNOMIAL_END = 1e-7  # the last learning rate of this schedule, fixed in transformers


@dataclass(kw_only=True)
class TrainerConfig(Settings):
    """conf/trainer: supervised fine-tuning."""

    config_group: ClassVar[str] = "trainer"

    engine: Engine = setting(
        Engine.auto,
        "Training library; auto: Unsloth for long runs on a CUDA GPU, else transformers.",
    )
    vision: Vision = setting(
        Vision.frozen, "frozen: the vision tower stays unchanged; lora: it gets adapters too."
    )
    precision: Precision = setting(
        Precision.auto,
        "Type of numbers; auto: bf16 if the GPU has it, else fp16; float32 without a GPU.",
    )
    epochs: float = setting(3.0, "Passes over the training records.", at_least=0.001)
    max_steps: int | None = setting(
        None, "Optimiser steps; null: as many as the epochs take.", at_least=1, cure="null"
    )
    # Any: OmegaConf fails to merge `int | str`.
    batch_size: Any = setting(
        8, "Records a step; auto: as many of the longest records as fit on the GPU.", at_least=1
    )
    gradient_accumulation: int = setting(1, "Batches an optimiser step.", at_least=1)
    learning_rate: float = setting(
        5e-4, "Learning rate at the end of the warm-up.", at_least=0, at_most=1
    )
    warmup_ratio: float = setting(
        0.05, "Share of the steps in which the learning rate rises.", at_least=0, at_most=1
    )
    weight_decay: float = setting(0.0, "Weight decay of AdamW.", at_least=0)
    max_grad_norm: float = setting(
        1.0, "Norm to which gradients are clipped; 0: no clipping.", at_least=0
    )
    scheduler: Scheduler = setting(
        Scheduler.cosine, "Learning rate schedule, by its name in transformers."
    )
    gradient_checkpointing: bool = setting(
        False, "Recompute activations in the backward pass: less memory, more time."
    )
    max_tokens: int | None = setting(
        None,
        "Longest allowed record in tokens, longer ones are an error; null: the model's own limit.",
        at_least=1,
        cure="null",
    )
    log_steps: int = setting(5, "Steps between two lines of the training log.", at_least=1)
    eval_steps: int | None = setting(
        50,
        "Steps between two evaluations on validation records; null: no evaluation in training.",
        at_least=1,
    )
    eval_records: int = setting(200, "Validation records that each evaluation scores.", at_least=1)
    early_stopping: int | None = setting(
        None,
        "Evaluations without a better balanced accuracy before training stops; null: never.",
        at_least=1,
        cure="null",
    )
    resume: bool = setting(True, "Continue from the last checkpoint of an unfinished run.")

    def __post_init__(self) -> None:
        _check_batch_size("trainer.batch_size", self.batch_size)
        super().__post_init__()

        if self.early_stopping is not None and self.eval_steps is None:
            raise UserError(
                "trainer.early_stopping needs evaluations in training; set trainer.eval_steps=50"
            )

        if self.scheduler == Scheduler.polynomial and self.learning_rate <= POLYNOMIAL_END:
            raise UserError(
                f"trainer.scheduler=polynomial ends at a learning rate of {POLYNOMIAL_END}, and "
                f"trainer.learning_rate is {self.learning_rate}; set trainer.learning_rate=0.0005"
            )

    def check_evaluations(self) -> None:
        """Raise UserError if training ends before early stopping can stop it.

        A short training without an evaluation is no mistake: its last step is kept.
        """
        if self.max_steps is None or self.eval_steps is None:
            return

        evaluations = self.max_steps // self.eval_steps
        if self.early_stopping is not None and self.early_stopping >= evaluations:
            raise UserError(
                f"trainer.early_stopping={self.early_stopping} never stops training, because "
                f"trainer.max_steps={self.max_steps} has {evaluations} evaluations; "
                "set trainer.early_stopping=null"
            )

    @property
    def num_rows(self) -> int:
        """Return the records a step; for `auto`, the number on a machine without a GPU."""
        return self.batch_size if isinstance(self.batch_size, int) else AUTO_WITHOUT_GPU

    def planned_records(self, num_records: int) -> int:
        """Return how many records training shows, with repeats, if `num_records` train."""
        if self.max_steps is None:
            return round(num_records * self.epochs)
        rows = self.batch_size if isinstance(self.batch_size, int) else AUTO_WITH_GPU
        return self.max_steps * rows * self.gradient_accumulation

    def planned_steps(self, num_records: int) -> int:
        """Return the optimiser steps for `num_records` training records without early stopping."""
        if self.max_steps is not None:
            return self.max_steps

        batches = math.ceil(num_records / self.num_rows)
        steps_per_epoch = max(1, math.ceil(batches / self.gradient_accumulation))

        return math.ceil(steps_per_epoch * self.epochs)


def _check_batch_size(name: str, value: Any) -> None:
    if value != AUTO and type(value) is not int:
        raise UserError(f"{name} must be an integer or {AUTO}, got {value}; set {name}=8")


@dataclass(kw_only=True)
class PrunerConfig(Settings):
    """conf/pruner: stop a run early if it looks worse than the sweep's finished runs.

    After an evaluation, the run compares its best value so far with the finished runs' best values
    at the same step. It stops if its value is not among the upper `percentile` percent. The value
    50 is the median stopping rule (Golovin et al. 2017, doi:10.1145/3097983.3098043).
    """

    config_group: ClassVar[str] = "pruner"

    enabled: bool = setting(True, "Stop runs early; false: train every run to its end.")
    percentile: float = setting(
        50.0,
        "A run continues while it is among this percentage of the best runs.",
        at_least=0,
        at_most=100,
    )
    startup_trials: int = setting(5, "Finished runs needed before any run is stopped.", at_least=1)
    warmup_steps: int = setting(0, "Optimiser steps before a run may be stopped.", at_least=0)


class ScoreMethod(StrEnum):
    """How a model's answer to a held-out record is obtained."""

    score = "score"  # compare the labels' log-probabilities
    generate = "generate"  # generate an answer and parse it


class Primary(StrEnum):
    """The figure that verdicts are about."""

    auto = "auto"  # cost where costs are given, else balanced_accuracy
    balanced_accuracy = "balanced_accuracy"
    cost = "cost"  # mean cost of a record, needs cost_miss and cost_overkill
    auroc = "auroc"
    accuracy = "accuracy"


class HeldOut(StrEnum):
    """Whether the records of the test split are answered."""

    open = "open"
    sealed = "sealed"  # only validation records are answered, until stage=reveal


@dataclass(kw_only=True)
class EvalConfig(CostConfig):
    """conf/eval: how a model answers held-out records, and which figure decides."""

    config_group: ClassVar[str] = "eval"

    primary: Primary = setting(
        Primary.auto,
        "Figure that verdicts are about; auto: cost if costs are set, else balanced_accuracy.",
    )
    test: HeldOut = setting(
        HeldOut.open,
        "open: answer the test split; sealed: answer validation records only, until stage=reveal.",
    )

    method: ScoreMethod = setting(
        ScoreMethod.score,
        "score: compare the labels' log-probabilities; generate: generate an answer and parse it.",
    )
    # Any: OmegaConf fails to merge `int | str`.
    batch_size: Any = setting(
        AUTO, "Records a forward pass; auto: 16, and up to 64 short ones on a GPU.", at_least=1
    )
    max_new_tokens: int = setting(32, "Longest generated answer, in tokens.", at_least=1)
    limit: int | None = setting(
        None, "Held-out records of each task and view; null: all.", at_least=1, cure="null"
    )
    probes: bool = setting(
        True, "Evaluate swapped, self-paired, blank-reference and closing pairs too."
    )
    probe_records: int | None = setting(
        None,
        "Swapped, self-paired, blank-reference and closing pairs of each task and view; null: all.",
        at_least=1,
        cure="null",
    )
    perturbations: bool = setting(
        True, "Ask raw pairs again with a blurred, darker, shifted, JPEG or rotated query."
    )
    rewordings: bool = setting(True, "Ask raw pairs again in the wordings of prompt.rewordings.")
    perturbed_records: int = setting(
        100, "Raw pairs that are asked again, chosen at random with data.split_seed.", at_least=1
    )

    def __post_init__(self) -> None:
        _check_batch_size("eval.batch_size", self.batch_size)
        super().__post_init__()

        if self.primary == Primary.cost and self.cost_miss is None:
            raise UserError(
                "eval.primary=cost needs costs; set eval.primary=balanced_accuracy, "
                "or give eval.cost_miss=10 eval.cost_overkill=1"
            )

    def num_rows(self, longest: int | None = None) -> int:
        """Return the records a forward pass; `longest` (positions) are those of one on a GPU.

        The number depends on nothing that changes from one run of a sweep to the next, such as free
        memory.
        """
        if isinstance(self.batch_size, int):
            return self.batch_size
        fitting = [rows for rows in ANSWER_ROWS if longest and rows * longest <= MAX_POSITIONS]
        return max([ANSWER_ROWS[0], *fitting])

    @property
    def primary_figure(self) -> Primary:
        """Return the figure that verdicts are about; never `auto`."""
        if self.primary != Primary.auto:
            return self.primary
        return Primary.balanced_accuracy if self.cost_miss is None else Primary.cost


class TrackingMode(StrEnum):
    """The target of Weights & Biases' logs: its servers, local files, or nothing."""

    online = "online"
    offline = "offline"
    off = "off"


@dataclass(kw_only=True)
class TrackingConfig(Settings):
    """conf/tracking: Weights & Biases."""

    config_group: ClassVar[str] = "tracking"

    mode: TrackingMode = setting(
        TrackingMode.offline,
        "online: log to W&B's servers; offline: to local files for `wandb sync`; off: do not log.",
    )
    project: str = setting("vlmbench", "W&B project.")
    entity: str | None = setting(None, "W&B user or team; null: the key's own.")
    sample_predictions: int = setting(40, "Rows of the predictions table.")
    adapter: bool = setting(True, "Log the adapter as an artifact.")
    report: bool = setting(True, "Log a sweep's report, with its images, as a closing run.")
    timeout_s: float = setting(
        60.0, "Seconds to wait for W&B's servers, at a run's start and at its end.", at_least=1
    )

    def check_project(self) -> None:
        """Raise UserError for a project name that W&B refuses: the run would go on without it."""
        if self.mode == TrackingMode.off:
            return

        valid = PROJECT_NOT.sub("_", self.project)[:MAX_PROJECT] or "vlmbench"
        if valid != self.project:
            raise UserError(
                f"tracking.project={self.project[:MAX_PROJECT]}: W&B takes 1 to {MAX_PROJECT} "
                "characters, without / \\ # ? % and colons; set "
                f"{shlex.quote(f'tracking.project={valid}')}"
            )
