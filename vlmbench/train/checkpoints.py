"""Checkpoints that can be trusted: sealed when they are whole, checked before a run goes on from one."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from vlmbench.files import NO_ROOM, damage, no_room, seal
from vlmbench.types import UserError

log = logging.getLogger(__name__)

STATE = "trainer_state.json"
KEPT = 2  # the last one and the best, or the one before the last
NO_ROOM_SAYS = ("inline_container.cc", "PytorchStreamWriter", "No space left", "Read-only", "Permission denied")


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def saved_steps(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the last step first."""
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=step_of, reverse=True)


def last_whole(folder: Path, *, of: str) -> Path | None:
    """The last checkpoint of the run `of` that can be trusted, with the best adapter that it counts on.

    Those after it are reported and removed: what cannot be loaded shall not be taken for the last one.
    """
    for checkpoint in saved_steps(folder):
        why = damage(checkpoint, of=of) or _best_is_damaged(folder, checkpoint, of=of)
        if not why:
            return checkpoint
        log.warning("%s is not used: %s; going on from the one before it", checkpoint, why)
        shutil.rmtree(checkpoint)
    return None


def _best_is_damaged(folder: Path, checkpoint: Path, *, of: str) -> str:
    best = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["best_model_checkpoint"]
    if best is None:
        return ""
    why = damage(folder / Path(best).name, of=of)
    return f"the best adapter until then is in {Path(best).name}, and {why}" if why else ""


def read_state(checkpoint: Path) -> Any:
    """The TrainerState of a checkpoint."""
    return TrainerState.load_from_json(str(checkpoint / STATE))


def keep(checkpoint: Path, *, of: str, best: str | None) -> None:
    """Seal a checkpoint; then remove those that are needed no more, by their steps: clocks may go backwards."""
    seal(checkpoint, of=of)
    folder = str(checkpoint.parent)
    rotate_checkpoints(output_dir=folder, save_total_limit=KEPT, best_model_checkpoint=best, use_mtime=False)


@contextmanager
def reading(checkpoint: Path | None) -> Iterator[None]:
    """A UserError where a checkpoint holds other things than numbers: they are not loaded."""
    try:
        yield
    except (pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(
            f"{checkpoint}: it cannot be loaded ({error}); remove it, and start the command again"
        ) from error


@contextmanager
def writing(what: Path) -> Iterator[None]:
    """A UserError where there is no room: torch and safetensors have errors of their own for that."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if getattr(error, "errno", None) in NO_ROOM or any(words in str(error) for words in NO_ROOM_SAYS):
            raise UserError(no_room(str(what), error)) from error
        raise
