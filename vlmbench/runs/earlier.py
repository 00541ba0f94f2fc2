"""The state that an earlier attempt left in a run's folder."""

from __future__ import annotations

import logging

from vlmbench.runs.folder import RunDir, State
from vlmbench.system import processes
from vlmbench.types import UserError

log = logging.getLogger(__name__)


def is_done(folder: RunDir, run_hash: str, *, name: str, trains: bool, prunes: bool) -> bool:
    """Whether an earlier attempt finished this very run, and nothing of it is damaged.

    Raise UserError if a pruned run is to be evaluated, or if the folder holds another run than the
    one with this `run_hash` and `name`.
    """
    reached = _reached_state(folder, run_hash, name)
    if reached == State.PRUNED and not trains:
        raise UserError(
            f"{folder.path}: this run was pruned; train it to the end with stage=run pruner=off"
        )

    done = {State.FINISHED, State.PRUNED} if prunes else {State.FINISHED}
    if reached in done and trains:
        log.info("%s is %s already; there is nothing to do", folder.path.name, reached)
        return True
    return False


@processes.from_leader
def _reached_state(folder: RunDir, run_hash: str, name: str) -> str | None:
    """Return the state of the run in the folder; None if it has to start or resume.

    Raise UserError if the folder holds another run that is worth keeping.
    """
    status = folder.read_status()
    if "run_hash" not in status:  # no status, or a damaged one: checkpoints name their owner
        return None

    if status["run_hash"] != run_hash:
        if not (folder.checkpoints.exists() or folder.adapter.exists()):
            return None
        raise UserError(
            f"{folder.path}: the folder holds a run with another configuration or other data "
            "(its manifest, an image or the files of its base model have changed since); bring "
            f"them back, or set name={name}_2, or remove the folder"
        )

    is_finished = status["state"] in (State.FINISHED, State.PRUNED)
    why = folder.damage() if is_finished else ""
    if why:
        log.warning("%s; it is made again from the last checkpoint", why)
        return None
    return str(status["state"])
