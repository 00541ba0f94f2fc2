"""The typed configuration of a run. Hydra's ConfigStore is the only registry; `schema` is the only way into it."""

from __future__ import annotations

import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from vlmbench.types import Record, Task, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

# Importing these registers every plug-in's schema: a new file in one of them needs no edit elsewhere.
PLUGIN_PACKAGES = ("vlmbench.backbones", "vlmbench.data.sources", "vlmbench.data.variants", "vlmbench.data.views")


def schema(group: str, name: str) -> Callable[[type[T]], type[T]]:
    """Make the decorated dataclass the schema of conf/<group>/<name>.yaml; its build() makes the object.

    The yaml starts with `defaults: [/schema/<group>/<name>@_here_, _self_]`. Raises ValueError for a name taken twice.
    """

    def register(node: type[T]) -> type[T]:
        store = ConfigStore.instance()
        folder = store.repo.get("schema", {}).get(group, {})
        if f"{name}.yaml" in folder and folder[f"{name}.yaml"].node._metadata.object_type is not node:
            raise ValueError(f"schema {group}/{name} is registered twice: {node.__module__}.{node.__name__}")
        store.store(group=f"schema/{group}", name=name, node=node)
        return node

    return register


def register_plugins() -> None:
    """Import every plug-in module, so that its schema is known to Hydra."""
    for package in PLUGIN_PACKAGES:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{package}.{module.name}")


def runnable_models() -> list[str]:
    """Names of the models that this machine can run with their default settings. Downloads nothing."""
    nodes = ConfigStore.instance().repo["schema"]["model"]
    types = {name.removesuffix(".yaml"): node.node._metadata.object_type for name, node in nodes.items()}
    return sorted(name for name, type_ in types.items() if not type_().requirements())


def check_range(place: str, value: float | None, low: float, high: float = float("inf")) -> None:
    """Raise UserError unless `value` is None or within [low, high]."""
    if value is not None and not (low <= value <= high and value != math.inf):
        bound = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise UserError(f"{place}={value}: it must be {bound}; set {place}=<a value {bound}>")


class Stage(StrEnum):
    """What to do: `run` is all of prepare, check, train, evaluate and report."""

    run = "run"
    prepare = "prepare"
    check = "check"
    train = "train"
    evaluate = "evaluate"
    report = "report"
    dashboard = "dashboard"
    predict = "predict"
    export = "export"
    serve = "serve"


class Engine(StrEnum):
    auto = "auto"  # Unsloth where there is a CUDA GPU, transformers elsewhere
    unsloth = "unsloth"
    transformers = "transformers"


class Vision(StrEnum):
    frozen = "frozen"  # the vision tower stays as it is
    lora = "lora"  # adapters in the vision tower too


class ScoreMethod(StrEnum):
    score = "score"  # compare the labels' log-probabilities
    generate = "generate"  # write an answer and parse it


class Pairing(StrEnum):
    all = "all"  # every picture beside every reference
    name = "name"  # every picture beside the reference of its own name


class TrackingMode(StrEnum):
    online = "online"
    offline = "offline"
    off = "off"


@dataclass(kw_only=True)
class StoreConfig:
    """conf/store: the vision-token store, which serves where the vision tower is frozen. Budgets in 10^9 bytes."""

    enabled: bool = True
    device_gb: float | None = None  # on the model's device; None: half of what is free
    host_gb: float | None = None  # in the host's memory, beside a GPU; None: half of what is free
    disk_gb: float = 100.0  # under cache_dir, for all models together; 0: nothing is written

    def __post_init__(self) -> None:
        check_range("store.device_gb", self.device_gb, 0)
        check_range("store.host_gb", self.host_gb, 0)
        check_range("store.disk_gb", self.disk_gb, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What a run asks of a backbone. `seed` draws fresh adapters, unless the folder `adapter` has trained ones.

    `merged` is the folder of an exported model, which is loaded instead of the published one. Without `weights` the
    model is on the meta device: it can tokenise and be counted, but not run.
    """

    seed: int
    engine: Engine
    vision: Vision
    cache_dir: Path
    store: StoreConfig = field(default_factory=StoreConfig)
    adapter: Path | None = None
    merged: Path | None = None
    weights: bool = True


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_range("model.lora.r", self.r, 1)
        check_range("model.lora.alpha", self.alpha, 1)
        check_range("model.lora.dropout", self.dropout, 0, 1)


@dataclass(kw_only=True)
class ModelConfig(ABC):
    """Base of conf/model: one family of vision-language models."""

    lora: LoraConfig = field(default_factory=LoraConfig)

    unsloth: ClassVar[bool] = False  # whether trainer.engine=auto may choose Unsloth
    licence: ClassVar[str] = "The base model is random, for tests; it has no licence of its own."  # of the base model

    @abstractmethod
    def requirements(self) -> Sequence[str]:
        """What this machine lacks to run the model, a sentence each; empty where it can. Downloads nothing."""

    @abstractmethod
    def build(self, request: BuildRequest) -> Any:
        """A `vlmbench.backbones.base.Backbone`. Raises UserError where the request does not suit the family."""

    def for_export(self) -> ModelConfig:
        """The settings whose weights an adapter can be merged into: those that are not packed into 4 bits."""
        return self


@dataclass(kw_only=True)
class SourceConfig(ABC):
    """Base of conf/source: where pictures and records come from. `labels` maps the user's words to labels."""

    # A mapping, str -> str, or a list of the labels of the numbers 0, 1, ...; None: empty. Any: OmegaConf lets the
    # command line add no key to a dict[str, str].
    labels: Any = None

    def __post_init__(self) -> None:
        labels = dict(enumerate(self.labels)) if isinstance(self.labels, list) else self.labels
        if not isinstance(labels, Mapping | None):
            raise UserError(f"source.labels={labels}: map your words to labels, as in source.labels={{ng: abnormal}}")
        self.labels = {str(word): str(label) for word, label in (labels or {}).items()}

    @abstractmethod
    def prepare(self, data_dir: Path) -> Path:
        """Write pictures and manifest.jsonl into a folder of `data_dir` named by this config's content, unless they
        are there already, and give the manifest's path. The folder appears whole or not at all."""


@dataclass(kw_only=True)
class SplitConfig:
    """Shares of the parts (groups) on each side."""

    train: float = 0.7
    val: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            check_range(f"data.split.{name}", getattr(self, name), 0, 1)
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise UserError(f"data.split: {self.train} + {self.val} + {self.test} is not 1; make the shares add up")


@dataclass(kw_only=True)
class VariantConfig(ABC):
    """Base of conf/data: which of the training side's records train. Every variant is tested on the same records."""

    split: SplitConfig = field(default_factory=SplitConfig)
    split_seed: int = 0  # apart from `seed`, so that every seed of a sweep is tested on the same records
    allow_leak: bool = False  # a leak is an error; true makes it a warning that the report repeats

    @abstractmethod
    def select(self, records: Sequence[Record], *, cost: Callable[[Record], int], seed: int) -> list[int]:
        """Positions, in the training side's `records`, of those that train; one may repeat. Pure.

        `cost` counts the trained tokens of a record: those of its answer.
        """

    def notes(self, tasks: Collection[Task]) -> list[str]:
        """What the report has to repeat about the selection, given the tasks that the source has; a sentence each."""
        return []


@dataclass(kw_only=True)
class ViewConfig(ABC):
    """Base of conf/view: the processed view, beside the raw one that every run has."""

    name: str = MISSING

    @abstractmethod
    def build(self, references: Sequence[Path]) -> Callable[[Image], Image]:
        """A deterministic picture -> picture function; `references` are the training side's reference pictures."""

    @abstractmethod
    def fingerprint(self, references: Sequence[str]) -> str:
        """Of everything that the function depends on; `references` are the sha256 of the reference pictures."""


@dataclass(kw_only=True)
class PromptConfig:
    """conf/prompt: the words of every task in one language."""

    questions: dict[str, str] = MISSING  # task -> question
    labels: dict[str, str] = MISSING  # label -> the word the model says
    phrases: dict[str, str] = field(default_factory=dict)  # replaced in the rest of the answers, longest first

    def __post_init__(self) -> None:
        for task in Task:
            if task not in self.questions:
                raise UserError(f"prompt.questions: no question for task {task}; add prompt.questions.{task}")


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


@dataclass(kw_only=True)
class JudgeConfig:
    """conf/judge: how a finished run is put to use, by stage=predict, export and serve.

    Without costs a decision is the likelier label, as in all metrics. With both, the threshold on the calibrated score
    is the one of least expected cost (see vlmbench/stats/threshold.py).
    """

    folder: str | None = None  # predict: pictures to judge
    reference: str | None = None  # predict: the good picture beside which they are judged, or a folder of such pictures
    pairing: Pairing = Pairing.all
    manifest: str | None = None  # predict: records to judge; their labels may be left out
    view: str = "raw"  # predict, serve: how pictures are shown, raw or the run's processed view
    sentence: bool = False  # predict: write the model's own sentence too
    gallery: int = 200  # predict: records on the page, the most suspicious first
    out: str | None = None  # predict, export: the folder to write; None: one in the run's folder
    cost_miss: float | None = None  # of passing an abnormal part, in any unit
    cost_overkill: float | None = None  # of stopping a normal part, in the same unit
    prevalence: float | None = None  # share of abnormal parts where it is used; None: as on the validation side
    parity_records: int = 64  # export: held-out records on which the exported model is compared with the run's
    parity_margin: float = 0.0  # export: labels nearer than this (nats) may change places
    parity_difference: float = 0.5  # export: a label's log-probability may change by so much (nats)
    host: str = "127.0.0.1"  # serve
    port: int = 7860  # serve
    upload_mb: float = 20.0  # serve: the largest file that is taken
    queue: int = 8  # serve: requests that may wait; one is judged at a time

    def __post_init__(self) -> None:
        if (self.cost_miss is None) != (self.cost_overkill is None):
            raise UserError("judge.cost_miss and judge.cost_overkill: a threshold takes both; give the other one too")
        check_range("judge.cost_miss", self.cost_miss, 1e-9)
        check_range("judge.cost_overkill", self.cost_overkill, 1e-9)
        check_range("judge.prevalence", self.prevalence, 1e-6, 1 - 1e-6)
        check_range("judge.gallery", self.gallery, 0)
        check_range("judge.parity_records", self.parity_records, 1)
        check_range("judge.parity_margin", self.parity_margin, 0)
        check_range("judge.parity_difference", self.parity_difference, 0)
        check_range("judge.port", self.port, 0, 65535)
        check_range("judge.upload_mb", self.upload_mb, 0.001)
        check_range("judge.queue", self.queue, 1)


@dataclass(kw_only=True)
class RunConfig:
    """Everything that a run depends on."""

    stage: Stage = Stage.run
    name: str = MISSING
    sweep: str = MISSING  # the folder of this sweep's cells
    cell: str = MISSING  # the end of a cell's folder name, after its number
    seed: int = 0
    data_dir: str = "data"  # pictures and manifests that sources write
    cache_dir: str = MISSING  # processed pictures and stored vision tokens
    model: ModelConfig = MISSING
    source: SourceConfig = MISSING
    data: VariantConfig = MISSING
    view: ViewConfig = MISSING
    prompt: PromptConfig = MISSING
    trainer: TrainerConfig = MISSING
    pruner: PrunerConfig = MISSING
    store: StoreConfig = MISSING
    eval: EvalConfig = MISSING
    tracking: TrackingConfig = MISSING
    grace_s: float = 25.0  # after SIGTERM, for the step that is being taken and its checkpoint; Slurm waits 30 s
    judge: JudgeConfig = MISSING
    run: str | None = None  # stage=predict, export and serve: the finished cell
    images: list[str] = field(default_factory=list)  # stage=predict: the reference and the query, or one picture

    def __post_init__(self) -> None:
        check_range("seed", self.seed, 0, 2**32 - 1)
        check_range("grace_s", self.grace_s, 0.1)


def _register_bases() -> None:
    store = ConfigStore.instance()
    store.store(group="schema", name="run", node=RunConfig)
    bases: Mapping[str, type] = {
        "prompt": PromptConfig,
        "trainer": TrainerConfig,
        "pruner": PrunerConfig,
        "store": StoreConfig,
        "eval": EvalConfig,
        "tracking": TrackingConfig,
        "judge": JudgeConfig,
    }
    for group, node in bases.items():
        store.store(group=f"schema/{group}", name="base", node=node)


_register_bases()
