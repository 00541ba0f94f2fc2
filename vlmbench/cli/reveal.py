"""stage=reveal: answer the test split of a sweep whose runs left it sealed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from omegaconf import OmegaConf

from vlmbench.cli.folders import plain_values
from vlmbench.cli.reopen import recorded_config
from vlmbench.config import HeldOut, RunConfig
from vlmbench.pipeline.execute import execute
from vlmbench.pipeline.run import Run
from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.plan import Plan, read_plan
from vlmbench.runs.planning import add_reveal
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import UserError

log = logging.getLogger(__name__)


def reveal_sweep(sweep: SweepDir, own: RunConfig) -> None:
    """Answer the test records of every run that was evaluated without them.

    `own` are the settings of this command: its folders and its tracking hold, not the recorded
    ones, which may come from a stranger. The date goes into the plan first. A second reveal answers
    the runs that finished since, and says that it is one. A run with a damaged file is left out
    with a warning. Raise UserError if there is no plan, or nothing was sealed.
    """
    sealed = [run for run in sweep.runs() if _is_waiting(run)]
    plan = read_plan(sweep.path)
    _check(sweep, plan, sealed)
    if plan is not None and plan.reveals:
        _warn_of_earlier_reveals(sweep, plan, sealed)
    if not sealed:
        return

    add_reveal(sweep.path)
    for run in sealed:
        execute(_reopen(run, own), trains=False)


def _is_waiting(folder: RunDir) -> bool:
    """Return whether a run was evaluated without its test split; a broken reveal left it so."""
    is_pruned = folder.read_status()["state"] == State.PRUNED
    try:
        return not is_pruned and folder.adapter.exists() and folder.is_sealed
    except UserError as error:
        log.warning("%s; this run is left out", error)
        return False


def _check(sweep: SweepDir, plan: Plan | None, sealed: Sequence[RunDir]) -> None:
    if not sealed and (plan is None or not plan.reveals):
        raise UserError(
            f"{sweep.path}: no finished run has a sealed test split (eval.test=sealed), so there "
            "is nothing to reveal; set stage=report"
        )
    if plan is None:
        raise UserError(
            f"{sweep.path}/plan.json: the plan is missing, and the date of the reveal belongs "
            "there; bring the file back, or start the sweep's command again: it writes a new plan"
        )


def _warn_of_earlier_reveals(sweep: SweepDir, plan: Plan, sealed: Sequence[RunDir]) -> None:
    dates = ", ".join(date[:10] for date in plan.reveals)
    if not sealed:
        log.warning("%s: the test split was revealed on %s; no run is left", sweep.path, dates)
        return
    log.warning(
        "%s: the test split was revealed on %s; this is reveal %d, of %d runs",
        sweep.path,
        dates,
        len(plan.reveals) + 1,
        len(sealed),
    )


def _reopen(folder: RunDir, own: RunConfig) -> Run:
    """Return a finished run with its own settings, and the test split open."""
    config, choices = recorded_config(folder)
    config.eval.test = HeldOut.open
    recorded = cast("RunConfig", OmegaConf.to_object(config))
    status = folder.read_status()
    return Run(
        config=replace(
            recorded,
            sweep=str(folder.path.parent),
            data_dir=own.data_dir,
            cache_dir=own.cache_dir,
            tracking=own.tracking,
        ),
        settings=plain_values(config),
        folder=folder,
        choices=choices,
        identity={name: status.get(name) for name in ("model", "data", "seed", "overrides")},
    )
