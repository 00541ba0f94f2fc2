"""Everything that a run depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from vlmbench.config.data import PromptConfig, SourceConfig, VariantConfig, ViewConfig
from vlmbench.config.judge import JudgeConfig
from vlmbench.config.model import ModelConfig, StoreConfig
from vlmbench.config.registry import check_range
from vlmbench.config.training import EvalConfig, PrunerConfig, TrackingConfig, TrainerConfig


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
