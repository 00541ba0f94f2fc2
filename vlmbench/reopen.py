"""The settings of a finished run again: what a later command does not say is as the run had it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vlmbench.rundir import RunDir
from vlmbench.types import UserError

GROUPS = ("model", "source", "data", "view", "prompt", "trainer", "store", "eval", "tracking")
FIXED = ("model", "data", "view", "prompt")  # another choice of these would not suit what the run has learnt


def finished_run(path: str | None) -> RunDir:
    """The run's folder. Raises UserError where it holds no trained adapter."""
    folder = RunDir(Path(path or ""))
    if path is not None and folder.adapter.exists():
        return folder
    within = sorted(one.parent.name for one in folder.path.glob("*/adapter")) if path is not None else []
    cure = f"in it are {', '.join(within[:5])}; name one" if within else "name one with run=runs/<sweep>/<cell>"
    raise UserError(f"run={path or ''}: there is no finished run in this folder; {cure}")


def reopen(raw: DictConfig, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The configuration `raw` of this command with the settings of the run that it names, and the choices of both.

    `overrides` are what the command line says: a value there (model.path=..., store=off) goes before the run's own.
    Raises UserError where there is no such run, or where the command line asks for another model, data, view or prompt
    than the run was trained with.
    """
    run = finished_run(raw.run)
    chosen = _recorded_choices(run)
    given = {one.key_or_group: str(one.value()) for one in OverridesParser.create().parse_overrides(list(overrides))}
    choices = chosen | {group: given[group] for group in GROUPS if group in given}
    for group in FIXED:
        if choices[group] != chosen[group]:
            raise UserError(f"{group}={choices[group]}: the run has {group}={chosen[group]}; leave {group}= out")
    recorded = cast("DictConfig", OmegaConf.load(run.config))
    config = compose("config", overrides=[f"{group}={choice}" for group, choice in choices.items()])
    try:
        with open_dict(config):
            for key in map(str, raw):
                if key not in GROUPS:
                    config[key] = raw._get_node(key)
            for group in GROUPS:
                if choices[group] == chosen[group]:
                    config[group] = OmegaConf.merge(config[group], recorded[group])
            config.seed = recorded.seed
            for key in given:
                if key.partition(".")[0] in GROUPS and "." in key:
                    OmegaConf.update(config, key, OmegaConf.select(raw, key))
    except OmegaConfBaseException as error:
        raise UserError(f"{run.config}: this version cannot read the run's settings ({error}); run it again") from error
    return config, choices


def _recorded_choices(run: RunDir) -> dict[str, str]:
    place = run.path / ".hydra" / "hydra.yaml"
    if not place.exists() or not run.config.exists():
        raise UserError(f"{run.path}: config.yaml or .hydra/hydra.yaml is missing; copy the run's whole folder")
    choices = OmegaConf.select(OmegaConf.load(place), "hydra.runtime.choices")
    return {group: str(choices[group]) for group in GROUPS}
