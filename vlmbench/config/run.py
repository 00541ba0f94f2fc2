"""Everything that a run depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from vlmbench.config.data import PromptConfig, SourceConfig, VariantConfig, ViewConfig
from vlmbench.config.deploy import ExportConfig, PredictConfig, ServeConfig
from vlmbench.config.model import ModelConfig, StoreConfig
from vlmbench.config.settings import Settings, setting
from vlmbench.config.training import EvalConfig, PrunerConfig, TrackingConfig, TrainerConfig


class Stage(StrEnum):
    """The work that a command does. `run` prepares, checks, trains, evaluates and reports."""

    run = "run"
    prepare = "prepare"
    check = "check"
    train = "train"
    evaluate = "evaluate"
    reveal = "reveal"
    report = "report"
    dashboard = "dashboard"
    predict = "predict"
    export = "export"
    serve = "serve"


@dataclass(kw_only=True)
class RunConfig(Settings):
    """Everything that a run depends on."""

    stage: Stage = setting(Stage.run, "What to do; run: prepare, check, train, evaluate, report.")
    name: str = setting("baseline", "Name of the sweep; an experiment sets its own.")
    sweep: str = setting(MISSING, "Folder of the sweep's runs.", default_text="runs/<date>_<name>")
    run_label: str = setting(
        MISSING,
        "End of a run folder's name, after its number.",
        default_text="<model>_<data>_s<seed>",
    )
    seed: int = setting(
        0,
        "Seed of the fresh adapters, the order of the records and the choice of the variant.",
        at_least=0,
        at_most=2**32 - 1,
    )
    data_dir: str = setting("data", "Folder of the images and manifests that sources write.")
    cache_dir: str = setting(".cache", "Folder of processed images and stored vision tokens.")
    model: ModelConfig = MISSING
    source: SourceConfig = MISSING
    data: VariantConfig = MISSING
    view: ViewConfig = MISSING
    prompt: PromptConfig = MISSING
    trainer: TrainerConfig = MISSING
    pruner: PrunerConfig = MISSING
    store: StoreConfig = MISSING
    eval: EvalConfig = MISSING
    baseline: dict[str, Any] = field(default_factory=dict)  # each a baselines.contract value
    tracking: TrackingConfig = MISSING
    predict: PredictConfig = MISSING
    export: ExportConfig = MISSING
    serve: ServeConfig = MISSING
    grace_s: float = setting(
        25.0,
        "Seconds after SIGTERM for the current step and its checkpoint; Slurm waits 30 s.",
        at_least=0.1,
    )
    run: str | None = setting(
        None, "Folder of the finished run that stage=predict, export and serve use."
    )
    images: list[str] = setting(
        factory=list, meaning="Images for stage=predict: [reference, query], or [image]."
    )


# A group whose choices share one dataclass has it as schema/<group>/base.
BASES: Mapping[str, type] = {
    "prompt": PromptConfig,
    "trainer": TrainerConfig,
    "pruner": PrunerConfig,
    "store": StoreConfig,
    "eval": EvalConfig,
    "tracking": TrackingConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "serve": ServeConfig,
}


def _register_bases() -> None:
    store = ConfigStore.instance()
    store.store(
        group="schema",
        name="run",
        node=RunConfig,
    )

    for group, node in BASES.items():
        store.store(group=f"schema/{group}", name="base", node=node)


_register_bases()
