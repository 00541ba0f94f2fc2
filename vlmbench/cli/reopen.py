"""The settings of a finished run again; the command line may change some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vlmbench.config import choices as config_choices
from vlmbench.runs.files import require_resolved
from vlmbench.runs.folder import RunDir
from vlmbench.system.reading import exists
from vlmbench.system.text import typed_setting
from vlmbench.types import UserError

GROUPS = ("model", "source", "data", "view", "prompt", "trainer", "store", "eval", "tracking")
# The errors of OmegaConf for values that do not fit.
SETTING_ERRORS = (OmegaConfBaseException, ValueError, TypeError, LookupError, AttributeError)
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
    recorded = _recorded_settings(run)
    kept = [group for group in GROUPS if choices[group] == recorded_choices[group]]
    try:
        _merge(
            config,
            raw=raw,
            recorded=recorded,
            kept=kept,
            given=given,
        )
    except SETTING_ERRORS as error:
        raise UserError(_unreadable_settings(run, error)) from error
    return config, choices


def recorded_config(run: RunDir) -> tuple[DictConfig, dict[str, str]]:
    """Return the whole configuration that a run was made with, and its choices.

    Raise UserError if its files are missing or this version cannot read them.
    """
    choices = _recorded_choices(run)
    config = compose("config", overrides=[f"{group}={name}" for group, name in choices.items()])
    try:
        merged = OmegaConf.merge(config, _recorded_settings(run))
    except SETTING_ERRORS as error:
        raise UserError(_unreadable_settings(run, error)) from error
    return cast("DictConfig", merged), choices


def _recorded_settings(run: RunDir) -> DictConfig:
    """Return the settings in a run's config.yaml, each of GROUPS among them.

    Raise UserError if the file is damaged.
    """
    settings = run.read_config()
    require_resolved(run.config, settings)
    for group in GROUPS:
        if not isinstance(settings.get(group), dict):
            raise UserError(_unreadable_settings(run, f"{group} is no group of settings"))
    return OmegaConf.create(settings)


def _unreadable_settings(run: RunDir, error: object) -> str:
    words = " ".join(str(error).split())
    return (
        f"{run.config}: this version cannot read the run's settings ({words}); train the run again"
    )


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
    """Return the choice of each of GROUPS. Raise UserError for one that does not exist here."""
    hydra_file = run.path / ".hydra" / "hydra.yaml"
    if not exists(hydra_file) or not exists(run.config):
        raise UserError(
            f"{run.path}: config.yaml or .hydra/hydra.yaml is missing; copy the run's whole folder"
        )

    chosen, known = run.read_config_choices(), config_choices()
    for group in GROUPS:
        if chosen.get(group) not in known.get(group, ()):
            raise UserError(
                f"{hydra_file}: {group}={str(chosen.get(group))[:60]} is no choice of this "
                "version; copy the run's whole folder, or train the run again"
            )
    return {group: chosen[group] for group in GROUPS}
