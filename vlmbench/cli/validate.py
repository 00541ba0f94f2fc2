"""All settings of a command, checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from vlmbench.cli.folders import own_settings
from vlmbench.cli.mistakes import unknown_setting
from vlmbench.cli.paths import check_paths
from vlmbench.config import HeldOut, RunConfig, Stage
from vlmbench.types import UserError

TRAINING_STAGES = (Stage.run, Stage.train, Stage.check)
# Settings whose values Hydra knows only once a run starts.
AT_START = ("sweep", "run_label")


def validate_run(config: DictConfig) -> list[DictConfig]:
    """Return the configuration alone. Raise UserError if a setting is unknown or not valid."""
    refuse_unknown_keys(config)
    settings = own_settings(config)
    for name in AT_START:
        settings[name] = name

    values = cast("Mapping[str, Any]", OmegaConf.to_object(settings))
    run = RunConfig(**values)  # checks the settings that are in no group
    if run.stage in TRAINING_STAGES:
        run.trainer.check_evaluations()
        run.tracking.check_project()
        _refuse_sealed_folds(run)
    check_paths(config)
    return [config]


def validate_sweep(config: DictConfig) -> list[DictConfig]:
    """Return the configuration of each run of a sweep.

    A sweeper such as Optuna chooses its values later: then only the common settings are checked,
    and the list is empty. Raise UserError if a setting of any run is not valid.
    """
    sweeper = str(config.hydra.sweeper._target_)
    if not sweeper.endswith("BasicSweeper"):
        _refuse_searched_folds(config)
        validate_run(config)
        return []

    loader = GlobalHydra.instance().config_loader()
    configs: list[DictConfig] = []
    for overrides in _sweep_overrides(config):
        run_config = loader.load_sweep_config(config, list(overrides))
        configs += validate_run(run_config)
    return configs


def _refuse_sealed_folds(run: RunConfig) -> None:
    """Raise UserError for a sealed test split whose parts other folds answer."""
    if run.data.folds is not None and run.eval.test == HeldOut.sealed:
        raise UserError(
            f"eval.test=sealed seals nothing with data.folds={run.data.folds}: the parts that one "
            "fold tests validate another; set eval.test=open"
        )


def _refuse_searched_folds(config: DictConfig) -> None:
    """Raise UserError for a search over folds: it would choose the fold that is easiest."""
    for override in map(str, config.hydra.overrides.task):
        name, _, value = override.lstrip("+").partition("=")
        if name == "data.folds" and value != "null":
            raise UserError(
                f"a search needs one test set for all of its runs, got {override}; "
                "set data.folds=null"
            )


def refuse_unknown_keys(node: DictConfig, prefix: str = "") -> None:
    """Raise UserError for keys that a `+` on the command line added to a schema."""
    schema = OmegaConf.get_type(node)
    known = {field.name for field in fields(schema)} if is_dataclass(schema) else None

    for key in map(str, node):
        name = f"{prefix}{key}"
        if name == "hydra":
            continue
        child = node._get_node(key)  # does not resolve interpolations
        is_known = known is None or key in known
        if prefix == "baseline.":  # a mapping of any names, each with the schema of its method
            is_known = is_dataclass(OmegaConf.get_type(child))
        if not is_known:
            raise UserError(unknown_setting(name, f"+{name}", node))

        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing()):
            refuse_unknown_keys(child, f"{name}.")


def _sweep_overrides(config: DictConfig) -> Iterator[Sequence[str]]:
    """Yield the overrides of each run, as Hydra's own sweeper makes them."""
    task = list(config.hydra.overrides.task)
    params = config.hydra.sweeper.params or {}
    given = {override.partition("=")[0] for override in task}
    defaults = [f"{key}={value}" for key, value in params.items() if key not in given]

    parsed = OverridesParser.create().parse_overrides([*defaults, *task])
    for batch in BasicSweeper.split_arguments(parsed, None):
        yield from batch
