"""The settings of a finished run again; the command line may change some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vlmbench.runs.folder import RunDir
from vlmbench.system.text import typed_setting
from vlmbench.types import UserError

GROUPS = ("model", "source", "data", "view", "prompt", "trainer", "store", "eval", "tracking")
# Another choice of these would not suit what the run has learnt.
FIXED_GROUPS = ("model", "data", "view", "prompt")


def finished_run(path: str | None) -> RunDir:
    """Return the run's folder. Raise UserError if it holds no trained adapter."""
    folder = RunDir(Path(path or ""))
    if path is not None and folder.adapter.exists():
        return folder

    raise UserError(f"run={path or ''}: the folder holds no finished run; {_run_cure(path)}")


def _run_cure(path: str | None) -> str:
    """Return the cure for a folder without a finished run: one in it, or the newest in runs/."""
    inside = [] if path is None else sorted(found.parent for found in Path(path).glob("*/adapter"))
    if inside:
        names = ", ".join(folder.name for folder in inside[:5])
        return f"set {typed_setting('run', inside[0])} (it holds {names})"

    finished = [found.parent for found in Path("runs").glob("*/*/adapter")]
    if finished:
        newest = max(finished, key=lambda folder: folder.stat().st_mtime)
        return f"set {typed_setting('run', newest)}, the newest finished run"
    return "train one first, such as vlmbench experiment=quick"


def reopen(raw: DictConfig, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """Return this command's configuration with the settings of the run that it names.

    The second value maps each config group to its choice. `overrides` come from the command line:
    a setting there (model.path=..., store=off) replaces the run's own. Raise UserError if the run
    does not exist, or if the command asks for another model, data, view or prompt.
    """
    run = finished_run(raw.run)
    recorded_choices = _recorded_choices(run)
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    given = {override.key_or_group: str(override.value()) for override in parsed}
    choices = recorded_choices | {group: given[group] for group in GROUPS if group in given}

    for group in FIXED_GROUPS:
        if choices[group] != recorded_choices[group]:
            raise UserError(
                f"{group}={choices[group]}: the run was trained with "
                f"{group}={recorded_choices[group]}; leave {group}= out"
            )

    config = compose("config", overrides=[f"{group}={name}" for group, name in choices.items()])
    recorded = cast("DictConfig", OmegaConf.load(run.config))
    kept = [group for group in GROUPS if choices[group] == recorded_choices[group]]
    try:
        _merge(
            config,
            raw=raw,
            recorded=recorded,
            kept=kept,
            given=given,
        )
    except OmegaConfBaseException as error:
        raise UserError(
            f"{run.config}: this version cannot read the run's settings ({error}); "
            "train the run again"
        ) from error
    return config, choices


def recorded_config(run: RunDir) -> tuple[DictConfig, dict[str, str]]:
    """Return the whole configuration that a run was made with, and its choices.

    Raise UserError if its files are missing or this version cannot read them.
    """
    choices = _recorded_choices(run)
    config = compose("config", overrides=[f"{group}={name}" for group, name in choices.items()])
    try:
        merged = OmegaConf.merge(config, OmegaConf.load(run.config))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(
            f"{run.config}: this version cannot read the run's settings ({error}); "
            "train the run again"
        ) from error
    return cast("DictConfig", merged), choices


def _merge(
    config: DictConfig,
    *,
    raw: DictConfig,
    recorded: DictConfig,
    kept: Sequence[str],
    given: Mapping[str, str],
) -> None:
    """Put into `config` what this command sets, and for the groups in `kept` the run's settings."""
    with open_dict(config):
        for key in map(str, raw):
            if key not in GROUPS:
                config[key] = raw._get_node(key)
        for group in kept:
            config[group] = OmegaConf.merge(config[group], recorded[group])
        config.seed = recorded.seed

        # A run of an earlier version has no baselines.
        own = recorded.get("baseline") or {}
        if "baseline" not in {key.partition(".")[0] for key in given}:
            for name in [name for name in own if name in config.baseline]:
                config.baseline[name] = OmegaConf.merge(config.baseline[name], own[name])

        for key in given:
            if key.partition(".")[0] in GROUPS and "." in key:
                OmegaConf.update(config, key, OmegaConf.select(raw, key))


def _recorded_choices(run: RunDir) -> dict[str, str]:
    hydra_file = run.path / ".hydra" / "hydra.yaml"
    if not hydra_file.exists() or not run.config.exists():
        raise UserError(
            f"{run.path}: config.yaml or .hydra/hydra.yaml is missing; copy the run's whole folder"
        )
    choices = OmegaConf.select(OmegaConf.load(hydra_file), "hydra.runtime.choices")
    return {group: str(choices[group]) for group in GROUPS}
