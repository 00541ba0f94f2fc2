"""Checkpoints that can be trusted: sealed when they are whole, checked before a run resumes."""

from __future__ import annotations

import json
import logging
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from safetensors import SafetensorError
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from vlmbench.system.files import NO_ROOM, find_damage, no_room_message, seal
from vlmbench.system.reading import read_regular
from vlmbench.types import UserError

log = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
MAX_STATE = 200_000_000  # bytes; it has the whole training log
CHECKPOINT = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-[0-9]{{1,12}}")
MAX_KEPT = 2  # the last checkpoint and the best, or the one before the last
# How torch and safetensors, which raise errors of their own, word a disk without room.
NO_ROOM_MESSAGES = (
    "inline_container.cc",
    "PytorchStreamWriter",
    "No space left",
    "Read-only",
    "Permission denied",
)


class _State(msgspec.Struct):
    """The part of trainer_state.json that a resumed run depends on, with its types."""

    global_step: Annotated[int, msgspec.Meta(ge=0, le=10**12)] | None = None
    max_steps: Annotated[int, msgspec.Meta(ge=0, le=10**12)] | None = None
    best_model_checkpoint: Annotated[str, msgspec.Meta(max_length=5000)] | None = None
    best_metric: float | None = None
    best_global_step: Annotated[int, msgspec.Meta(ge=0, le=10**12)] | None = None
    epoch: float | None = None
    log_history: list[dict[str, float | None]] = []
    stateful_callbacks: dict[str, Any] = {}


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def saved_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the last step first."""
    candidates = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    checkpoints = [path for path in candidates if CHECKPOINT.fullmatch(path.name)]
    return sorted(checkpoints, key=step_of, reverse=True)


def last_whole(folder: Path, *, owner: str) -> Path | None:
    """Return the last undamaged checkpoint of the run with hash `owner`; None if there is none.

    The best adapter that it refers to must be undamaged too. Later checkpoints are logged and
    removed: what cannot be loaded must not be taken for the last one.
    """
    for checkpoint in saved_checkpoints(folder):
        why = _checkpoint_damage(checkpoint, owner=owner)
        if not why:
            return checkpoint
        log.warning("%s is not used: %s; trying the checkpoint before it", checkpoint, why)
        if checkpoint.is_symlink() or not checkpoint.is_dir():
            checkpoint.unlink()  # the link, not what it leads to
        else:
            shutil.rmtree(checkpoint)
    return None


def read_state(checkpoint: Path) -> Any:
    """Return the TrainerState of a checkpoint."""
    return TrainerState.load_from_json(str(checkpoint / STATE_FILE))


def keep(checkpoint: Path, *, owner: str, best: str | None) -> None:
    """Seal a checkpoint of the run with hash `owner`; then remove those that are not needed.

    The order is by step, because clocks may go backwards.
    """
    seal(checkpoint, of=owner)
    rotate_checkpoints(
        output_dir=str(checkpoint.parent),
        save_total_limit=MAX_KEPT,
        best_model_checkpoint=best,
        use_mtime=False,
    )


@contextmanager
def explain_load_errors(checkpoint: Path | None) -> Iterator[None]:
    """Raise UserError if a checkpoint holds anything but numbers: that is never loaded."""
    try:
        yield
    except (pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(
            f"{checkpoint}: the checkpoint cannot be loaded ({error}); "
            "remove it and start the command again"
        ) from error


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Raise UserError that names `path` if there is no room to write it."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        has_no_room = getattr(error, "errno", None) in NO_ROOM
        if has_no_room or any(words in str(error) for words in NO_ROOM_MESSAGES):
            raise UserError(no_room_message(str(path), error)) from error
        raise


def _checkpoint_damage(checkpoint: Path, *, owner: str) -> str:
    """Return why a checkpoint, or the best one that it refers to, is not used; "" if it can be."""
    why = find_damage(checkpoint, of=owner)
    if why:
        return why

    try:
        # transformers writes NaN, which msgspec's own parser refuses.
        content = json.loads(read_regular(checkpoint / STATE_FILE, limit=MAX_STATE))
        state = msgspec.convert(content, _State)
    except (ValueError, RecursionError) as error:
        return f"{STATE_FILE} is damaged ({error})"

    if state.global_step not in (None, step_of(checkpoint)):
        return f"{STATE_FILE} is of another step"
    if state.best_model_checkpoint is None:
        return ""

    name = Path(state.best_model_checkpoint).name
    if not CHECKPOINT.fullmatch(name):
        return f"{STATE_FILE} names {name[:60]!r} as the best checkpoint"
    why = find_damage(checkpoint.with_name(name), of=owner)
    return f"the best adapter so far is in {name}, and {why}" if why else ""
