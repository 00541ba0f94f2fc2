"""The precision that the runs of a sweep share, and that of a finished run for later use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmbench.config import Precision
from vlmbench.pipeline.run import Run
from vlmbench.runs.folder import RunDir, State
from vlmbench.system import processes
from vlmbench.types import UserError

KNOWN = ("bf16", "fp16", "fp32")  # a stranger's env.json may hold anything


def settle_precision(run: Run) -> Run:
    """Return the run in the precision of its sweep's other runs.

    With trainer.precision=auto, a sweep that began in fp16 goes on in fp16 on any GPU. Raise
    UserError if this machine cannot go on, or if the GPUs of the processes differ.
    """
    is_auto = run.config.trainer.precision is Precision.auto
    made = _made_in(run.folder.path.parent) if is_auto else {}
    if Precision.fp16 in made:
        run = _in_fp16(run)
    own, reason = run.choose_precision()

    leaders = processes.from_leader(lambda: own)()
    if processes.any_process(own != leaders):
        raise UserError(
            f"trainer.precision={run.config.trainer.precision}: the GPUs of the run's processes "
            "differ, and some have no bf16; set trainer.precision=fp16"
        )

    is_finished = run.folder.read_status().get("state") == State.FINISHED
    for precision, path in made.items():
        # A finished run has nothing left to train. In fp16, it is another run.
        is_harmless = is_finished and Precision.fp16 not in (precision, own)
        if precision == own or is_harmless:
            continue
        raise UserError(
            f"{path}: the run was made in {precision}, and this machine takes {own} ({reason}); "
            f"compared runs need one precision: set name={run.config.name}_2 for a sweep of its "
            "own, or go on where that run was made"
        )
    return run


def as_trained(run: Run, trained: RunDir) -> Run:
    """Return the run in the precision in which a finished run was trained, if it can be had.

    Only fp16 is chosen: every other precision is what `auto` takes on such a machine.
    """
    is_auto = run.config.trainer.precision is Precision.auto
    was_fp16 = trained.read_env().get("precision") == Precision.fp16
    return _in_fp16(run) if is_auto and was_fp16 else run


def _in_fp16(run: Run) -> Run:
    """Return the run in fp16 if this machine has a GPU."""
    import torch

    if not torch.cuda.is_available():
        return run
    trainer = replace(run.config.trainer, precision=Precision.fp16)
    return replace(run, config=replace(run.config, trainer=trainer))


@processes.from_leader
def _made_in(sweep: Path) -> dict[str, Path]:
    """Return the precisions that `auto` took for runs of a sweep, and a run of each."""
    return {precision: path for path, precision in _recorded(sweep)}


def _recorded(sweep: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(sweep.glob("*/env.json")):
        folder = RunDir(path.parent)
        with suppress(UserError):  # a damaged run is not compared
            precision = folder.read_env().get("precision")
            if precision in KNOWN and _counts(folder) and _setting_of(folder) == Precision.auto:
                yield folder.path, precision


def _counts(folder: RunDir) -> bool:
    """Return whether a run is worth keeping: it did not fail, or it can be resumed."""
    has_failed = folder.read_status().get("state") == State.FAILED
    return not has_failed or folder.adapter.exists() or folder.checkpoints.exists()


def _setting_of(folder: RunDir) -> Any:
    trainer = folder.read_config().get("trainer")
    return trainer.get("precision") if isinstance(trainer, dict) else None
