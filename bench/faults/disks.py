"""Disks that are full at every kind of write, or may only be read."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

from bench.faults.fault import Facts, Fault, Rng, recovers, says
from bench.faults.stage import PAGE, STEPS, Spoil, Stage, at_row, fill, small_disk, when_opened

DISK = 16 << 20  # bytes: enough for a run
NO_ROOM = ("cannot be written", "No space left", "make room there")
# What is opened, or made, when the disk gets full, and how many pages may be left then.
MOMENTS: dict[str, tuple[str, str, int]] = {
    "adapter": ("/adapter", "os.mkdir", 10),
    "predictions": (".predictions.jsonl.", "open", 10),
    "metrics": (".metrics.json.", "open", 1),
    "report": (".verdicts.json.", "open", 10),
}


def _full(stage: Stage, rng: Rng, most_pages: int, moment: Callable[[Spoil], Spoil]) -> Facts:
    """The disk of the runs gets full at a moment; then room is made."""
    scene, left = stage.scene(), int(rng.integers(0, most_pages)) * PAGE
    runs = scene.folder / "runs"
    with small_disk(runs, DISK):
        outcome = scene.run(spoil=moment(lambda: fill(runs, left)))
        said = says(outcome, *NO_ROOM)
        (runs / "filler").unlink()
        return {"bytes_left": left, "said": said, **recovers(stage, scene)}


def _full_at(name: str) -> Callable[[Stage, Rng], Facts]:
    part, event, most_pages = MOMENTS[name]
    return lambda stage, rng: _full(stage, rng, most_pages, lambda action: when_opened(part, action, event=event))


def full_at_checkpoint(stage: Stage, rng: Rng) -> Facts:
    """Full somewhere in the files of a checkpoint: less than one is left at a random row of the log."""
    row = int(rng.integers(1, STEPS))
    return _full(stage, rng, 40, lambda action: at_row(row, action))


def full_at_log(stage: Stage, rng: Rng) -> Facts:
    """Full when the training log, which is a page long by then, grows."""
    row = int(rng.integers(1, STEPS))

    def moment(action: Spoil) -> Spoil:
        def then() -> None:
            from vlmbench.rundir import RunDir

            action()
            append = RunDir.append_train_log
            RunDir.append_train_log = lambda self, line: append(self, {**line, "pad": "x" * PAGE})  # type: ignore[method-assign]

        return at_row(row, then)

    return _full(stage, rng, 1, moment)


def full_at_status(stage: Stage, rng: Rng) -> Facts:
    """Full when a status is written: at the start, or at the end."""
    number = int(rng.integers(1, 3))
    scene = stage.scene()
    runs = scene.folder / "runs"

    def spoil() -> None:
        from vlmbench.rundir import RunDir

        write, calls = RunDir.write_status, iter(range(1, 100))

        def filling(self: RunDir, *args: object, **kwargs: object) -> None:
            if next(calls) == number:
                fill(runs, 0)
            write(self, *args, **kwargs)  # type: ignore[arg-type]

        RunDir.write_status = filling  # type: ignore[method-assign]

    with small_disk(runs, DISK):
        said = says(scene.run(spoil=spoil), *NO_ROOM)
        (runs / "filler").unlink()
        return {"status": number, "said": said, **recovers(stage, scene)}


def read_only(stage: Stage, rng: Rng) -> Facts:
    """The folder of the runs may only be read from a random row of the log on, or from the start."""
    row, scene = int(rng.integers(0, STEPS)), stage.scene()
    runs = scene.folder / "runs"

    def lock() -> None:
        """Mounted over itself, the other way round: files that are open already may be written on."""
        _mount("--bind", str(runs), str(runs))
        _mount("-o", "remount,bind,ro", str(runs))

    with small_disk(runs, DISK):
        if row == 0:
            lock()
        outcome = scene.run(spoil=at_row(row, lock) if row else None)
        subprocess.run(["/bin/umount", str(runs)], check=True)
        said = says(outcome, "cannot be written", "Read-only file system")
        return {"at_row": row, "said": said, **recovers(stage, scene)}


def _mount(*arguments: str) -> None:
    subprocess.run(["/bin/mount", *arguments], check=True)


def _small_cache(name: str, *, goes_on: bool) -> Callable[[Stage, Rng], Facts]:
    """A folder of the caches on a disk that is too small by a random share; then on one that is not."""

    def befall(stage: Stage, rng: Rng) -> Facts:
        scene = stage.scene()
        place = scene.folder / name
        pages = sum(-(-path.stat().st_size // PAGE) for path in place.rglob("*") if path.is_file())
        size = int(rng.uniform(0, 0.8) * pages) * PAGE
        shutil.rmtree(place)
        if name == "data":
            shutil.rmtree(scene.folder / ".cache")
        with small_disk(place, size):
            if goes_on:  # a cache is not worth a run
                facts = recovers(stage, scene)
                assert "not kept on disk any more" in (scene.folder / "output.txt").read_text(encoding="utf-8")
                return {"bytes": size, **facts}
            said = says(scene.run(), *NO_ROOM)
        return {"bytes": size, "said": said, **recovers(stage, scene)}

    return befall


FAULTS = (
    *(Fault(f"full_at_{name}", f"the disk is full when the {name} is written", _full_at(name)) for name in MOMENTS),
    Fault("full_at_checkpoint", "the disk is full within a checkpoint", full_at_checkpoint),
    Fault("full_at_log", "the disk is full when the training log grows", full_at_log),
    Fault("full_at_status", "the disk is full when the status is written", full_at_status),
    Fault("full_at_tokens", "no room for the token store", _small_cache(".cache/features", goes_on=True)),
    Fault("full_at_views", "no room for processed pictures", _small_cache(".cache/views", goes_on=False)),
    Fault(
        "full_at_facts",
        "no room for the pictures' hashes",
        _small_cache(".cache/pictures", goes_on=False),
    ),
    Fault("full_at_pictures", "no room for the source's pictures", _small_cache("data", goes_on=False)),
    Fault("read_only", "the run's folder may only be read", read_only),
)
