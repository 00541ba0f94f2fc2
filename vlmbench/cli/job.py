"""The work that Hydra starts: one run of a sweep, and the start and end of a sweep.

Launchers pass `run_job` by its name to other processes and hosts. So importing this module must
register all that a configuration needs. Nothing here imports torch before a run needs it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vlmbench.cli.arguments import read_params
from vlmbench.cli.folders import RUN_STAGES, plain_values, run_folder, stage_dir
from vlmbench.cli.mistakes import explain_config_errors, refuse
from vlmbench.cli.plan import plan_runs, plan_search
from vlmbench.cli.reopen import reopen
from vlmbench.cli.validate import refuse_unknown_keys, validate_run, validate_sweep
from vlmbench.cli.words import as_typed
from vlmbench.config import RunConfig, Stage, TrackingConfig, register_plugins
from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.follower import FollowerDir
from vlmbench.runs.plan import made_run
from vlmbench.runs.planning import LOCK_FILE as PLAN_LOCK
from vlmbench.runs.planning import was_refused, withdraw
from vlmbench.runs.sweep import REPORT, SweepDir
from vlmbench.system import processes, signals
from vlmbench.system.files import explain_disk_errors
from vlmbench.system.reading import refuse_links, refuse_odd_file
from vlmbench.system.secrets import refuse_secrets
from vlmbench.system.text import counted
from vlmbench.tracking.tracker import publish_report
from vlmbench.types import UserError

if TYPE_CHECKING:
    from vlmbench.pipeline.run import Run

log = logging.getLogger("vlmbench")

TUNED_NOTE = (
    "Optuna's best value is too good: it is of the validation records that chose among %d runs and "
    "their checkpoints. The report has figures of test records"
)
DEPLOY_STAGES = (Stage.predict, Stage.export, Stage.serve)  # of a finished run


def run_job(raw: DictConfig) -> float | None:
    """Do what the configuration says.

    Return what a sweeper such as Optuna maximises: the balanced accuracy on the validation records
    that training follows; None if there is none. In a sweep, a run that fails does not stop the
    others.
    """
    hydra_config = HydraConfig.get()
    processes.use_own_gpu()
    if not processes.is_leader():
        log.setLevel(logging.WARNING)

    folder = job_folder()
    if hydra_config.mode is RunMode.RUN or processes.count() > 1:
        return _run_alone(raw, folder)
    return _run_in_sweep(raw, folder)


def job_folder() -> RunDir:
    """Return the folder of the job that Hydra runs now; processes that follow only read it."""
    path = Path(HydraConfig.get().runtime.output_dir)
    return RunDir(path) if processes.is_leader() else FollowerDir(path)


def make_run(raw: DictConfig, folder: RunDir) -> Run:
    """Return the run of a configuration. Raise UserError if a setting is not valid."""
    from vlmbench.pipeline.run import Run

    refuse_unknown_keys(raw)
    identity = _identity(raw.get("seed"))
    choices: Mapping[str, str] = HydraConfig.get().runtime.choices
    if Stage(raw.stage) in DEPLOY_STAGES:
        raw, choices = reopen(raw, HydraConfig.get().overrides.task)

    refuse_secrets([OmegaConf.to_yaml(raw, resolve=True)])
    config = cast("RunConfig", OmegaConf.to_object(raw))
    return Run(
        config=config,
        settings=plain_values(raw),
        folder=folder,
        choices=choices,
        identity=identity,
    )


class SweepCallback(Callback):
    """Check all settings before anything is written; begin and end a sweep."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)  # the names of folders need it
        with _undropped("the check of the settings"):
            _check_and_plan(validate_run, config, Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _undropped("the check of the sweep"):
            read_params(config)
            _check_and_plan(validate_sweep, config, Path(config.hydra.sweep.dir))

            self.times_before = _status_times(Path(config.hydra.sweep.dir))
            if Stage(config.stage) not in RUN_STAGES:  # what is there is an earlier command's
                shutil.rmtree(stage_dir(config.stage, ""), ignore_errors=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        with _undropped("the end of the sweep"):
            self._end_sweep(config)

    def _end_sweep(self, config: DictConfig) -> None:
        from vlmbench.cli.stages import log_report, log_states

        stage, sweep = Stage(config.stage), SweepDir(Path(config.hydra.sweep.dir))
        log_states(sweep)
        if "optuna" in str(config.hydra.sweeper.get("_target_")):
            log.info(TUNED_NOTE, len(sweep.runs()))

        statuses = {run.path.name: run.read_status() for run in sweep.runs()}
        has_finished = any(status["state"] == State.FINISHED for status in statuses.values())
        if stage is Stage.run and has_finished:
            log_report(sweep)
            tracking = cast("TrackingConfig", OmegaConf.to_object(config.tracking))
            publish_report(tracking, folder=sweep.report, sweep=sweep.path.name)

        # Errors of this command only, not of an earlier one. (A clock may go backwards.)
        failed = [
            name
            for name, status in statuses.items()
            if status.get("error") and status["time"] != self.times_before.get(name)
        ]
        if failed:
            if stage in RUN_STAGES:
                _withdraw_all(sweep)
            log.info("%s", _failure_message(stage, failed, len(statuses)))
            raise SystemExit(1)


@contextlib.contextmanager
def _undropped(title: str) -> Iterator[None]:
    """End the command at any error of a callback. Hydra would only warn, and go on unchecked."""
    try:
        with explain_config_errors():
            yield
    except UserError as error:
        refuse(error)
    except Exception as error:
        log.exception("%s failed", title)
        raise SystemExit(1) from error


def _run_alone(raw: DictConfig, folder: RunDir) -> float | None:
    """Do one run. A UserError ends the process here: Hydra would put words of its own before it."""
    try:
        if HydraConfig.get().mode is not RunMode.RUN:
            raise UserError(
                "a sweep (-m) must run in one process, and torchrun started several; "
                "start a single run with torchrun, or set hydra/launcher=ray for a sweep"
            )
        with explain_config_errors(), explain_disk_errors("the run's files"):
            run = _do(raw, folder)
            if run.config.stage is Stage.run and processes.is_leader():
                _report(run)
    except UserError as error:
        _withdraw_alone(raw, folder)
        refuse(error)
    return folder.validation_value()


def _run_in_sweep(raw: DictConfig, folder: RunDir) -> float | None:
    """Do one run of a sweep, and log its error instead of raising it."""
    try:
        with explain_config_errors(), explain_disk_errors(str(folder.path)):
            run = _do(raw, folder)
    except UserError as error:  # the user can mend it: no traceback
        log.error("error: %s", error)
        _write_error(folder, error, raw)
    except Exception as error:  # whatever it is, other runs may do better
        log.exception("%s failed", folder.path.name)
        _write_error(folder, error, raw)
    else:
        stage = run.config.stage
        if stage not in RUN_STAGES:
            state = State.CHECKED if stage is Stage.check else State.DONE
            folder.write_status(state, run_hash="", **_identity(raw.get("seed")))
        return folder.validation_value()
    return None


def _do(raw: DictConfig, folder: RunDir) -> Run:
    from vlmbench.cli.stages import do_stage

    run = make_run(raw, folder)
    is_run_stage = run.config.stage in RUN_STAGES
    if not is_run_stage and not processes.is_leader():
        return run  # the other stages need one process

    if is_run_stage:
        folder.write_config(OmegaConf.to_yaml(raw, resolve=True))
    with signals.handle_signals(run.config.grace_s):
        do_stage(run)
    return run


def _withdraw_alone(raw: DictConfig, folder: RunDir) -> None:
    """Take a run that was refused before its training out of the plan.

    It stays if another process works on it: then that is why it was refused.
    """
    if Stage(raw.stage) not in RUN_STAGES or not processes.is_leader():
        return
    # The run's own error is the one to read.
    with contextlib.suppress(UserError, OSError), folder.lock():
        if not folder.train_log.exists():
            status = _identity(raw.get("seed"))
            refused = made_run(RefusedRun(config=plain_values(raw), status=status))
            withdraw(Path(raw.sweep), [refused.key])


def _withdraw_all(sweep: SweepDir) -> None:
    """Take runs that were refused out of the plan, if none of their command has trained."""
    refused = []
    for run in filter(was_refused, sweep.runs()):
        # A damaged config.yaml costs its own run, and so does another process that works on it.
        with contextlib.suppress(UserError, OSError), run.lock():
            made = made_run(RefusedRun(config=run.read_config(), status=run.read_status()))
            refused.append(made.key)
    with contextlib.suppress(UserError, OSError):
        withdraw(sweep.path, refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRun:
    """The settings and the identity of a run that ended before its training."""

    config: Mapping[str, Any]
    status: Mapping[str, Any]


def _report(run: Run) -> None:
    from vlmbench.cli.stages import log_report

    log_report(SweepDir(Path(run.config.sweep)))


def _identity(seed: Any) -> dict[str, Any]:
    """Return what tells the job's run apart in its sweep: model, data, seed and overrides."""
    hydra_config = HydraConfig.get()
    choices = hydra_config.runtime.choices
    return {
        "model": choices["model"],
        "data": choices["data"],
        "seed": seed,
        "overrides": [as_typed(override) for override in hydra_config.overrides.task],
    }


def _write_error(folder: RunDir, error: Exception, raw: DictConfig) -> None:
    """Write the error into the run's status, unless another process works on the run."""
    with contextlib.suppress(UserError, OSError), folder.lock():
        folder.write_error(str(error) or type(error).__name__, **_identity(raw.get("seed")))


def _check_and_plan(
    validate: Callable[[DictConfig], list[DictConfig]], config: DictConfig, folder: Path
) -> None:
    """End the command if a setting is not valid; else write the plan before a run begins.

    Hydra writes into `folder`. A link there could lead it to any file of this machine.
    """
    with explain_disk_errors("the plan of the sweep"):
        configs = validate(config)
        _refuse_links(folder, is_sweep=validate is validate_sweep)
        if Stage(config.stage) not in RUN_STAGES or not processes.is_leader():
            return
        _require_precision(config, configs, is_sweep=validate is validate_sweep)
        if validate is validate_run:
            plan_runs(Path(config.sweep), configs)
        elif configs:
            plan_runs(Path(config.hydra.sweep.dir), configs)
        else:
            plan_search(Path(config.hydra.sweep.dir), config)


def _require_precision(
    config: DictConfig, configs: Sequence[DictConfig], *, is_sweep: bool
) -> None:
    """Raise UserError if this machine's GPU lacks the precision of a run.

    Other launchers than Hydra's own may start runs elsewhere: there, each run is checked.
    """
    if is_sweep and not str(config.hydra.launcher._target_).endswith("BasicLauncher"):
        return
    from vlmbench.backbones.precision import choose_precision

    processes.use_own_gpu()
    for precision in {one.trainer.precision for one in configs or [config]}:
        choose_precision(precision)


def _refuse_links(folder: Path, *, is_sweep: bool) -> None:
    """Raise UserError for a link where Hydra writes: in a run's folder, or the files of a sweep."""
    if not is_sweep:
        refuse_links(folder)
        return

    for name in ("multirun.yaml", PLAN_LOCK, REPORT):
        refuse_odd_file(folder / name)


def _failure_message(stage: Stage, failed: Sequence[str], num_runs: int) -> str:
    if stage is Stage.check:
        names = ", ".join(failed)
        return f"{len(failed)} of {num_runs} runs failed their check and would not start: {names}"
    return (
        f"{len(failed)} of {counted(num_runs, 'run')} failed. Mend what their errors say, then "
        "start the command again: it skips finished runs, continues interrupted ones, and repeats "
        "failed ones"
    )


def _status_times(sweep: Path) -> dict[str, float]:
    """Return when the status of each run was written."""
    runs = [RunDir(path.parent) for path in sweep.glob("*/status.json")]
    return {run.path.name: run.read_status()["time"] for run in runs}


register_plugins()
OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
OmegaConf.register_new_resolver("stage_dir", stage_dir, replace=True)
