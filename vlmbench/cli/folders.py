"""The folders that Hydra writes to: a run is found again by its settings."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain, count
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from vlmbench.config import Stage
from vlmbench.runs.folder import RunDir
from vlmbench.runs.identity import figure_settings
from vlmbench.runs.sweep import run_number
from vlmbench.system.reading import exists, find_link, refuse_link, refuse_links
from vlmbench.types import UserError

log = logging.getLogger(__name__)

# Stages that train or evaluate a run in its own folder.
RUN_STAGES = (Stage.run, Stage.train, Stage.evaluate)
STAGES_DIR = ".cache/stages"  # where Hydra writes for the other stages


def plain_values(config: Any) -> dict[str, Any]:
    """Return a configuration as plain values, as its yaml has them."""
    values = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return cast("dict[str, Any]", values)


def own_settings(config: DictConfig) -> DictConfig:
    """Return a configuration without Hydra's own part."""
    keys = [key for key in map(str, config) if key != "hydra"]
    return OmegaConf.masked_copy(config, keys)


def stage_dir(stage: str, folder: str) -> str:
    """Return where Hydra writes: `folder` for a stage with a run, another one for the others."""
    return folder if Stage(stage) in RUN_STAGES else f"{STAGES_DIR}/{stage}"


def run_folder(sweep: str, number: int | None, label: str, *, _root_: DictConfig) -> str:
    """Return the name of a run's folder in its sweep's folder.

    A run with the same settings and choices keeps its folder, whatever its number was: a sweep to
    which values were added finds the runs that it has.
    """
    choices = plain_values(_root_.hydra.runtime.choices)
    content = _run_content(plain_values(own_settings(_root_)), choices)

    configs = [
        path
        for path in Path(sweep).glob("[0-9]*_*/config.yaml")
        if run_number(path.parent) is not None
    ]
    for path in configs:
        if _read_content(path, path.lstat().st_mtime_ns) == content:
            return path.parent.name

    if number is None:
        number = 1 + max((run_number(path.parent) or 0 for path in configs), default=-1)
    return _free_name(Path(sweep), f"{number}_{label}", content)


def _free_name(sweep: Path, name: str, content: Mapping[str, Any]) -> str:
    """Return a name for a new run's folder: not of another run, and not of a folder with a link."""
    text = json.dumps(content, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    later = (f"{name}_{digest[:8]}_{number}" for number in count(2))

    for free in chain((name, f"{name}_{digest[:8]}"), later):
        folder = sweep / free
        is_another_run = free == name and exists(folder / "config.yaml")
        if not is_another_run and not folder.is_symlink() and find_link(folder) is None:
            return free
    raise AssertionError("the names have no end")


@lru_cache
def _read_content(path: Path, changed_ns: int) -> dict[str, Any] | None:
    """Return what the run of a config.yaml is, as the file was at this time of change.

    None if its files are damaged, or if a link leads out of its folder: this run is not continued,
    and no other run is stopped by it.
    """
    folder = RunDir(path.parent)
    try:
        refuse_link(folder.path)
        refuse_links(folder.path)
        return _run_content(folder.read_config(), folder.read_config_choices())
    except UserError as error:
        log.warning("%s; until then this run is not continued", error)
        return None


def _run_content(values: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells a run apart: its settings, and the choices that they came from.

    Settings alone are not enough: two choices such as data=single may have the same ones.
    """
    chosen = {
        group: name
        for group, name in choices.items()
        if "hydra/" not in group and group != "experiment"
    }
    return {"values": figure_settings(values), "choices": figure_settings(chosen)}
