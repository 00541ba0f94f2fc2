"""Disks that are full at every kind of write, or read-only."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from bench.faults.fault import Facts, Fault, Inject, Rng, require_message, require_recovery
from bench.faults.moments import PAGE, at_log_row, fill, small_disk, when_opening
from bench.faults.trial import STEPS, Action, Reference

DISK = 16 << 20  # bytes: enough for a run
NO_ROOM = ("cannot be written", "No space left", "make room there")
# What is written -> the path that is opened or made, the event, and the most pages left then.
MOMENTS: dict[str, tuple[str, str, int]] = {
    "adapter": ("/adapter", "os.mkdir", 10),
    "predictions": (".predictions.jsonl.", "open", 10),
    "metrics": (".metrics.json.", "open", 1),
    "report": (".verdicts.json.", "open", 10),
}


def full_at_checkpoint(reference: Reference, rng: Rng) -> Facts:
    """Fill the disk at a random row of the log, so that no checkpoint fits any more."""
    row = int(rng.integers(1, STEPS))
    return _fill_disk(reference, rng, 40, lambda action: at_log_row(row, action))


def full_at_log(reference: Reference, rng: Rng) -> Facts:
    """Fill the disk when the training log grows; each of its rows is a page long by then."""
    row = int(rng.integers(1, STEPS))

    def at_moment(action: Action) -> Action:
        def fill_and_pad() -> None:
            from vlmbench.runs.folder import RunDir

            action()
            append = RunDir.append_train_log

            def append_padded(self: RunDir, row: Mapping[str, Any]) -> None:
                append(self, {**row, "padding": "x" * PAGE})

            RunDir.append_train_log = append_padded  # type: ignore[method-assign]

        return at_log_row(row, fill_and_pad)

    return _fill_disk(reference, rng, 1, at_moment)


def full_at_status(reference: Reference, rng: Rng) -> Facts:
    """Fill the disk when a status is written: at the start of the run, or at its end."""
    number = int(rng.integers(1, 3))
    trial = reference.new_trial()
    runs = trial.folder / "runs"

    def prepare() -> None:
        from vlmbench.runs.folder import RunDir

        write, calls = RunDir.write_status, iter(range(1, 100))

        def fill_and_write(self: RunDir, *args: Any, **kwargs: Any) -> None:
            if next(calls) == number:
                fill(runs, 0)
            write(self, *args, **kwargs)

        RunDir.write_status = fill_and_write  # type: ignore[method-assign]

    with small_disk(runs, DISK):
        message = require_message(trial.run(prepare=prepare), *NO_ROOM)
        (runs / "filler").unlink()
        facts = {"status": number, "message": message}
        return {**facts, **require_recovery(reference, trial)}


def read_only(reference: Reference, rng: Rng) -> Facts:
    """Make the folder of the runs read-only at a random row of the log, or before the start."""
    row, trial = int(rng.integers(0, STEPS)), reference.new_trial()
    runs = trial.folder / "runs"

    def lock() -> None:
        # Mounted over itself. A plain remount fails while files are open for writing.
        _mount("--bind", str(runs), str(runs))
        _mount("-o", "remount,bind,ro", str(runs))

    with small_disk(runs, DISK):
        if row == 0:
            lock()
        outcome = trial.run(prepare=at_log_row(row, lock) if row else None)
        subprocess.run(["/bin/umount", str(runs)], check=True)
        message = require_message(outcome, "cannot be written", "Read-only file system")
        return {"at_row": row, "message": message, **require_recovery(reference, trial)}


def _fill_disk(
    reference: Reference, rng: Rng, max_pages: int, at_moment: Callable[[Action], Action]
) -> Facts:
    """Fill the disk of the runs at a moment; then make room."""
    trial, num_left = reference.new_trial(), int(rng.integers(0, max_pages)) * PAGE
    runs = trial.folder / "runs"
    with small_disk(runs, DISK):
        outcome = trial.run(prepare=at_moment(lambda: fill(runs, num_left)))
        message = require_message(outcome, *NO_ROOM)
        (runs / "filler").unlink()
        facts = {"bytes_left": num_left, "message": message}
        return {**facts, **require_recovery(reference, trial)}


def _full_at(name: str) -> Inject:
    part, event, max_pages = MOMENTS[name]

    def at_moment(action: Action) -> Action:
        return when_opening(part, action, event=event)

    return lambda reference, rng: _fill_disk(reference, rng, max_pages, at_moment)


def _small_cache(name: str, *, continues: bool) -> Inject:
    """Give a folder of the caches a disk that is too small by a random share, then a larger one.

    `continues`: the run goes on without room for this cache.
    """

    def inject(reference: Reference, rng: Rng) -> Facts:
        trial = reference.new_trial()
        folder = trial.folder / name
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        num_pages = sum(-(-size // PAGE) for size in sizes)
        num_bytes = int(rng.uniform(0, 0.8) * num_pages) * PAGE

        shutil.rmtree(folder)
        if name == "data":
            shutil.rmtree(trial.folder / ".cache")
        with small_disk(folder, num_bytes):
            if continues:
                facts = require_recovery(reference, trial)
                message = "no more vision tokens are written to disk"
                assert message in trial.last_output(), trial.last_output()[-1500:]
                return {"bytes": num_bytes, **facts}
            message = require_message(trial.run(), *NO_ROOM)
        facts = {"bytes": num_bytes, "message": message}
        return {**facts, **require_recovery(reference, trial)}

    return inject


def _mount(*arguments: str) -> None:
    subprocess.run(["/bin/mount", *arguments], check=True)


FAULTS = (
    *(
        Fault(f"full_at_{name}", f"the disk is full when the {name} is written", _full_at(name))
        for name in MOMENTS
    ),
    Fault("full_at_checkpoint", "the disk is full within a checkpoint", full_at_checkpoint),
    Fault("full_at_log", "the disk is full when the training log grows", full_at_log),
    Fault("full_at_status", "the disk is full when the status is written", full_at_status),
    Fault(
        "full_at_tokens",
        "no room for the token store",
        _small_cache(".cache/features", continues=True),
    ),
    Fault(
        "full_at_views",
        "no room for processed images",
        _small_cache(".cache/views", continues=False),
    ),
    Fault(
        "full_at_facts",
        "no room for the hashes of images",
        _small_cache(".cache/images", continues=False),
    ),
    Fault(
        "full_at_images", "no room for the source's images", _small_cache("data", continues=False)
    ),
    Fault("read_only", "the run's folder is read-only", read_only),
)
