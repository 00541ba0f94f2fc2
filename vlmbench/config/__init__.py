"""The typed configuration of a run."""

from vlmbench.config.data import PromptConfig, SourceConfig, SplitConfig, VariantConfig, ViewConfig
from vlmbench.config.judge import JudgeConfig, Pairing
from vlmbench.config.model import BuildRequest, Engine, LoraConfig, ModelConfig, StoreConfig, Vision
from vlmbench.config.registry import check_range, register_plugins, runnable_models, schema
from vlmbench.config.run import RunConfig, Stage
from vlmbench.config.training import (
    AUTO,
    AUTO_WITHOUT_GPU,
    EvalConfig,
    PrunerConfig,
    ScoreMethod,
    TrackingConfig,
    TrackingMode,
    TrainerConfig,
)

__all__ = [
    "AUTO",
    "AUTO_WITHOUT_GPU",
    "BuildRequest",
    "Engine",
    "EvalConfig",
    "JudgeConfig",
    "LoraConfig",
    "ModelConfig",
    "Pairing",
    "PromptConfig",
    "PrunerConfig",
    "RunConfig",
    "ScoreMethod",
    "SourceConfig",
    "SplitConfig",
    "Stage",
    "StoreConfig",
    "TrackingConfig",
    "TrackingMode",
    "TrainerConfig",
    "VariantConfig",
    "ViewConfig",
    "Vision",
    "check_range",
    "register_plugins",
    "runnable_models",
    "schema",
]
