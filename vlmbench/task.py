"""What Hydra runs: one cell of a sweep, the folder that it goes to, and the end of a sweep.

Launchers hand `run_cell` to other processes and other hosts by its name, so that importing this module must make known
everything that a configuration needs. Nothing here imports torch before a run needs it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vlmbench import interrupt, processes
from vlmbench.config import RunConfig, Stage, TrackingConfig, register_plugins
from vlmbench.config.mistakes import explained, no_setting, refuse
from vlmbench.files import needing_room
from vlmbench.plain import refuse_secrets
from vlmbench.provenance import content_of_config
from vlmbench.reopen import reopen
from vlmbench.rundir import FollowerDir, RunDir, State, SweepDir, cell_number
from vlmbench.tracking import publish_report
from vlmbench.types import UserError

log = logging.getLogger("vlmbench")

CELL_STAGES = (Stage.run, Stage.train, Stage.evaluate)
JUDGE_STAGES = (Stage.predict, Stage.export, Stage.serve)  # of a finished run


def run_cell(raw: DictConfig) -> float | None:
    """Do what the configuration says. In a sweep, a cell that fails is reported, and does not stop the others.

    Gives what a sweeper such as Optuna's maximizes: the balanced accuracy on followed validation records, None where
    there is none.
    """
    hydra_config = HydraConfig.get()
    processes.take_own_card()
    if not processes.is_leader():
        log.setLevel(logging.WARNING)
    folder = (RunDir if processes.is_leader() else FollowerDir)(Path(hydra_config.runtime.output_dir))
    choices = hydra_config.runtime.choices
    identity = {name: choices[name] for name in ("model", "data")}
    identity |= {"seed": raw.get("seed"), "overrides": list(hydra_config.overrides.task)}
    if hydra_config.mode is RunMode.RUN or processes.count() > 1:
        return _run_alone(raw, folder, identity)
    try:
        with explained(), needing_room(str(folder.path)):
            config = _run(raw, folder, identity)
    except UserError as error:  # the user can mend it: no traceback
        log.error("error: %s", error)
        _note_error(folder, error, identity)
    except Exception as error:  # whatever it is, other cells may do better
        log.exception("%s failed", folder.path.name)
        _note_error(folder, error, identity)
    else:
        if config.stage not in CELL_STAGES:
            state = State.CHECKED if config.stage is Stage.check else State.DONE
            folder.write_status(state, content_hash="", **identity)
        return folder.watched_value()
    return None


def _run_alone(raw: DictConfig, folder: RunDir, identity: Mapping[str, Any]) -> float | None:
    """What the user can mend ends the process here: Hydra would put words of its own before it."""
    try:
        if HydraConfig.get().mode is not RunMode.RUN:
            raise UserError(
                "a sweep (-m) runs in one process; start a single run with torchrun, or give each cell of the sweep a "
                "GPU with hydra/launcher=ray"
            )
        with explained(), needing_room("what the run makes"):
            config = _run(raw, folder, identity)
            if config.stage is Stage.run and processes.is_leader():
                _report(Path(config.sweep))
    except UserError as error:
        refuse(error)
    return folder.watched_value()


def _run(raw: DictConfig, folder: RunDir, identity: Mapping[str, Any]) -> RunConfig:
    from vlmbench.cell import Cell
    from vlmbench.run import run

    refuse_unknown_keys(raw)
    choices: Mapping[str, str] = HydraConfig.get().runtime.choices
    if Stage(raw.stage) in JUDGE_STAGES:
        raw, choices = reopen(raw, HydraConfig.get().overrides.task)
    refuse_secrets([OmegaConf.to_yaml(raw, resolve=True)])
    config = cast("RunConfig", OmegaConf.to_object(raw))
    if config.stage not in CELL_STAGES and not processes.is_leader():
        return config  # what is not training takes one process
    if config.stage in CELL_STAGES:
        folder.write_config(OmegaConf.to_yaml(raw, resolve=True))
    with interrupt.heeded(config.grace_s):
        run(Cell(config=config, plain=_plain(raw), folder=folder, choices=choices, identity=identity))
    return config


def _note_error(folder: RunDir, error: Exception, identity: Mapping[str, Any]) -> None:
    """In the cell's status, unless another process runs the cell: then the status is that one's."""
    with contextlib.suppress(UserError, OSError), folder.lock():
        folder.note_error(str(error) or type(error).__name__, **identity)


def refuse_unknown_keys(node: DictConfig, place: str = "") -> None:
    """Raise UserError for keys that a `+` on the command line added to a schema."""
    schema = OmegaConf.get_type(node)
    for key in map(str, node):
        if is_dataclass(schema) and key not in {field.name for field in fields(schema)}:
            raise UserError(no_setting(f"{place}{key}", f"+{place}{key}", node))
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            refuse_unknown_keys(node[key], f"{place}{key}.")


class SweepCallback(Callback):
    """Begins and ends a sweep, whatever launches it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.before = _times(Path(config.hydra.sweep.dir))
        if Stage(config.stage) not in CELL_STAGES:  # what is there is an earlier command's
            shutil.rmtree(stage_dir(config.stage, ""), ignore_errors=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from vlmbench.run import print_states

        sweep = SweepDir(Path(config.hydra.sweep.dir))
        print_states(sweep)
        statuses = {cell.path.name: cell.read_status() for cell in sweep.cells()}
        if Stage(config.stage) is Stage.run and any(status["state"] == State.FINISHED for status in statuses.values()):
            _report(sweep.path)
            tracking = cast("TrackingConfig", OmegaConf.to_object(config.tracking))
            publish_report(tracking, folder=sweep.report, sweep=sweep.path.name)
        # Not what an earlier command left, with values that this one does not have; a clock may go backwards.
        failed = [
            name for name, status in statuses.items() if status.get("error") and status["time"] != self.before.get(name)
        ]
        if failed:
            log.info("%s", _what_now(Stage(config.stage), failed, len(statuses)))
            raise SystemExit(1)  # Hydra drops what a callback raises, unless it ends the process


def _what_now(stage: Stage, failed: Sequence[str], cells: int) -> str:
    """What is to be done about cells that failed."""
    if stage is Stage.check:
        return f"{len(failed)} of {cells} cells failed their check and would not run: {', '.join(failed)}"
    return "the same command again skips what is finished, goes on with what broke, and retries what failed"


def _times(sweep: Path) -> dict[str, float]:
    """When each cell's status was written."""
    cells = [RunDir(path.parent) for path in sweep.glob("*/status.json")]
    return {cell.path.name: cell.read_status()["time"] for cell in cells}


def _report(sweep: Path) -> None:
    from vlmbench.run import print_report

    print_report(SweepDir(sweep))


def cell_folder(sweep: str, number: int | None, cell: str, *, _root_: DictConfig) -> str:
    """The name of a cell's folder in its sweep's: that of the same content, if there is one, else a new one.

    A sweep to which values were added so finds the cells that it has, whatever their number was.
    """
    own = OmegaConf.masked_copy(_root_, [key for key in map(str, _root_) if key != "hydra"])
    content = _content(_plain(own), _plain(_root_.hydra.runtime.choices))
    made = [path for path in Path(sweep).glob("[0-9]*_*/config.yaml") if cell_number(path.parent) is not None]
    for path in made:
        if _read(path, path.stat().st_mtime_ns) == content:
            return path.parent.name
    if number is None:
        number = 1 + max((cell_number(path.parent) or 0 for path in made), default=-1)
    name = f"{number}_{cell}"
    if not (Path(sweep) / name / "config.yaml").exists():
        return name
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    return f"{name}_{digest.hexdigest()[:8]}"


@lru_cache
def _read(path: Path, changed: int) -> dict[str, Any]:
    """The content of a cell by its config.yaml, as it was at this time of change."""
    of_hydra = path.parent / ".hydra" / "hydra.yaml"
    choices = OmegaConf.select(OmegaConf.load(of_hydra), "hydra.runtime.choices") if of_hydra.exists() else None
    return _content(_plain(OmegaConf.load(path)), {} if choices is None else _plain(choices))


def _content(values: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Values alone do not tell two choices apart whose settings are the same: `data=single` from the others."""
    chosen = {group: name for group, name in choices.items() if "hydra/" not in group and group != "experiment"}
    return {"values": content_of_config(values), "choices": content_of_config(chosen)}


def _plain(config: Any) -> dict[str, Any]:
    """Plain values, as the yaml has them."""
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True, enum_to_str=True))


def stage_dir(stage: str, folder: str) -> str:
    """Where Hydra writes: into runs for stages that make a cell, else out of the way."""
    return folder if Stage(stage) in CELL_STAGES else f".cache/stages/{stage}"


register_plugins()
for _name, _resolver in (("cell_folder", cell_folder), ("stage_dir", stage_dir)):
    OmegaConf.register_new_resolver(_name, _resolver, replace=True)
