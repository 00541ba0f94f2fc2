"""The typed configuration of a run."""

from vlmbench.config.choices import choices, default_choices
from vlmbench.config.costs import CostConfig
from vlmbench.config.data import (
    TILE_SETTINGS,
    PromptConfig,
    SourceConfig,
    SplitConfig,
    VariantConfig,
    ViewConfig,
    read_mapping,
)
from vlmbench.config.deploy import (
    DeployConfig,
    ExportConfig,
    Join,
    Pairing,
    PredictConfig,
    ServeConfig,
)
from vlmbench.config.model import (
    BuildRequest,
    Engine,
    LoraConfig,
    ModelConfig,
    Precision,
    StoreConfig,
    Vision,
)
from vlmbench.config.reference import REQUIRED, SettingRow, describe_settings, find_settings
from vlmbench.config.registry import CONF, register_plugins, runnable_models, schema, schemas
from vlmbench.config.run import RunConfig, Stage
from vlmbench.config.settings import Settings, check_range, setting
from vlmbench.config.training import (
    AUTO,
    AUTO_WITHOUT_GPU,
    EvalConfig,
    HeldOut,
    Primary,
    PrunerConfig,
    ScoreMethod,
    TrackingConfig,
    TrackingMode,
    TrainerConfig,
)

__all__ = [
    "AUTO",
    "AUTO_WITHOUT_GPU",
    "CONF",
    "REQUIRED",
    "TILE_SETTINGS",
    "BuildRequest",
    "CostConfig",
    "DeployConfig",
    "Engine",
    "EvalConfig",
    "ExportConfig",
    "HeldOut",
    "Join",
    "LoraConfig",
    "ModelConfig",
    "Pairing",
    "Precision",
    "PredictConfig",
    "Primary",
    "PromptConfig",
    "PrunerConfig",
    "RunConfig",
    "ScoreMethod",
    "ServeConfig",
    "SettingRow",
    "Settings",
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
    "choices",
    "default_choices",
    "describe_settings",
    "find_settings",
    "read_mapping",
    "register_plugins",
    "runnable_models",
    "schema",
    "schemas",
    "setting",
]
