"""Machines that several runs share: memory, clocks, one store, disks without locks, umasks."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import shutil
import subprocess
import time
from pathlib import Path

import psutil

from bench.faults.fault import Facts, Fault, Inject, Rng, require_message, require_recovery
from bench.faults.moments import PAGE, at_log_row, die, fill, small_disk
from bench.faults.trial import LOG_ROWS, Action, Outcome, Reference, Trial

CLONE_NEWNS = 0x00020000  # a mount that this process alone sees
HELD = 256 << 20  # bytes that a run holds when the memory killer comes
CACHE_DISK = 64 << 20  # bytes: enough for the caches
DAY_S = 86400.0


def memory_killer(reference: Reference, rng: Rng) -> Facts:
    """Kill the run when its memory is at its peak, as Linux does when none is left."""
    trial, row = reference.new_trial(), int(rng.integers(1, LOG_ROWS))

    def fill_and_die() -> None:
        held = bytearray(HELD)
        held[::PAGE] = b"x" * len(held[::PAGE])
        die()

    trial.run(prepare=at_log_row(row, fill_and_die))
    return {"at_row": row, **require_recovery(reference, trial)}


def memory_limit(reference: Reference, rng: Rng) -> Facts:
    """Let no further memory be had (ulimit -v): the run ends, and goes on where there is some."""
    trial, row = reference.new_trial(), int(rng.integers(1, LOG_ROWS))

    def limit() -> None:
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used, used))
        bytearray(HELD)  # raises MemoryError, as an allocation of a step would

    outcome = trial.run(prepare=at_log_row(row, limit))
    assert outcome.code not in (0, None), outcome.text[-2000:]
    return {"at_row": row, "exit_code": outcome.code, **require_recovery(reference, trial)}


def full_shared_memory(reference: Reference, rng: Rng) -> Facts:
    """Fill /dev/shm, which this run alone sees: a run does not need it."""
    trial = reference.new_trial()

    def fill_shared_memory() -> None:
        if os.geteuid() != 0 or ctypes.CDLL(None).unshare(CLONE_NEWNS):
            raise SystemExit("no mount of its own")
        mount = ("/bin/mount", "-t", "tmpfs", "-o", f"size={PAGE}", "tmpfs", "/dev/shm")  # noqa: S108
        subprocess.run(["/bin/mount", "--make-rprivate", "/"], check=True)
        subprocess.run(mount, check=True)
        fill(Path("/dev/shm"), 0)  # noqa: S108

    return require_recovery(reference, trial, prepare=fill_shared_memory)


def full_cache_in_run(reference: Reference, rng: Rng) -> Facts:
    """Fill the disk of the caches while the run trains: it goes on without them."""
    trial, row = reference.new_trial(), int(rng.integers(1, LOG_ROWS))
    cache, aside = trial.folder / ".cache", trial.folder / "aside"
    shutil.move(cache, aside)
    shutil.rmtree(aside / "features")
    with small_disk(cache, CACHE_DISK) as disk:
        shutil.copytree(aside, disk, dirs_exist_ok=True)
        facts = require_recovery(reference, trial, prepare=at_log_row(row, lambda: fill(disk, 0)))
    return {"at_row": row, **facts}


def two_runs_one_store(reference: Reference, rng: Rng) -> Facts:
    """Start two sweeps at once on one empty cache: both end as alone."""
    first, second = reference.new_trial(), reference.new_trial()
    shared = first.folder / "shared"
    delay = float(rng.uniform(0, 1))
    processes = [first.start(f"cache_dir={shared}")]
    time.sleep(delay)
    processes.append(second.start(f"cache_dir={shared}"))
    for process in processes:
        require_message(process.wait(), code=0)

    expected = _without_folders(reference.predictions)
    for trial in (first, second):
        assert _without_folders(trial.predictions()) == expected, "other predictions"
    return {"later_s": delay, "then": "the same predictions"}


def small_budget_of_another(reference: Reference, rng: Rng) -> Facts:
    """Share the store with a run whose store.disk_gb is tiny: it removes hardly anything."""
    trial = reference.new_trial()
    store = trial.folder / ".cache" / "features"
    then = time.time() - DAY_S
    entries = list(store.rglob("*.safetensors"))
    for path in entries:
        os.utime(path, (then, then))

    size = entries[0].stat().st_size
    other = Trial(trial.folder, "runs/other")
    require_message(other.run(f"store.disk_gb={2 * size / 1e9}", "source.size=96"), code=0)
    left = sum(path.exists() for path in entries)
    assert left >= len(entries) - 3, f"{left} of {len(entries)} entries are left"
    return {"entries": len(entries), "left": left}


def no_locks(reference: Reference, rng: Rng) -> Facts:
    """Kill a run on a disk that refuses locks: its marker does not stop the next start."""
    trial, row = reference.new_trial(), int(rng.integers(1, LOG_ROWS))
    code = int(rng.choice([errno.ENOLCK, errno.EOPNOTSUPP]))

    def refuse_locks() -> None:
        import fcntl

        def flock(*args: object) -> None:
            raise OSError(code, os.strerror(code))

        fcntl.flock = flock

    def refuse_and_die() -> None:
        refuse_locks()
        at_log_row(row, die)()

    trial.run(prepare=refuse_and_die)
    return {"at_row": row, **require_recovery(reference, trial, prepare=refuse_locks)}


def private_umask(reference: Reference, rng: Rng) -> Facts:
    """Kill a run under umask 077, and start it again under umask 022."""
    trial, row = reference.new_trial(), int(rng.integers(1, LOG_ROWS))

    def prepare() -> None:
        os.umask(0o077)
        at_log_row(row, die)()

    trial.run(prepare=prepare)
    return {"at_row": row, **require_recovery(reference, trial)}


def stray_ranks(reference: Reference, rng: Rng) -> Facts:
    """Leave WORLD_SIZE and others in the environment: one sentence, and no waiting."""
    trial = reference.new_trial()
    stray = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    outcome = trial.run(env=stray)
    message = require_message(outcome, "no launcher started this process; run unset")
    assert outcome.seconds < 10, f"it took {outcome.seconds:.1f} s"
    return {"message": message, **require_recovery(reference, trial, env={"RANK": "1"})}


def _clock(seconds: float) -> Inject:
    """Let the clock jump by so many seconds at a random row of the log, and kill the run later."""

    def inject(reference: Reference, rng: Rng) -> Facts:
        trial = reference.new_trial()
        rows = sorted(int(row) for row in rng.choice(range(1, LOG_ROWS), 2, replace=False))

        def jump() -> None:
            clock = time.time
            time.time = lambda: clock() + seconds

        trial.run(prepare=_both(at_log_row(rows[0], jump), at_log_row(rows[1], die)))
        return {"at_rows": rows, **require_recovery(reference, trial)}

    return inject


def _both(first: Action, second: Action) -> Action:
    def prepare() -> None:
        first()
        second()

    return prepare


def _without_folders(predictions: bytes) -> bytes:
    return re.sub(rb'"[^"]*/((views|data)/)', rb'"\1', predictions)


def _refused_or_read(name: str) -> Inject:
    """Damage a file of a run's settings: the report says so or does without, and it can be made."""

    def inject(reference: Reference, rng: Rng) -> Facts:
        trial = reference.new_trial(finished=True)
        path = trial.run_folder.path / name
        data = bytearray(path.read_bytes())
        path.write_bytes(bytes(data[: int(rng.integers(1, len(data)))]) + b"\n\t: [")
        outcome: Outcome = trial.run("stage=report")
        assert "Traceback" not in outcome.text, outcome.text[-2000:]
        return {"file": name, "exit_code": outcome.code, **require_recovery(reference, trial)}

    return inject


def changed_in_training(reference: Reference, rng: Rng) -> Facts:
    """Edit an image while the run trains: the run says which file it is, and does not finish."""
    trial, row = reference.new_trial(), int(rng.integers(1, LOG_ROWS - 1))
    images = sorted((trial.folder / "data").rglob("*.png"))
    path = images[int(rng.integers(len(images)))]
    before = path.read_bytes()

    def edit() -> None:
        path.write_bytes(before + b"\0")

    outcome = trial.run(prepare=at_log_row(row, edit))
    message = require_message(outcome, path.name)
    path.write_bytes(before)
    return {"at_row": row, "message": message, **require_recovery(reference, trial)}


FAULTS = (
    Fault("memory_killer", "SIGKILL at the peak of the memory", memory_killer),
    Fault("memory_limit", "no further memory (ulimit -v)", memory_limit),
    Fault("full_shared_memory", "the shared memory is full", full_shared_memory),
    Fault("full_cache_in_run", "the disk of the caches fills in training", full_cache_in_run),
    Fault("two_runs_one_store", "two sweeps start on one empty cache", two_runs_one_store),
    Fault(
        "small_budget_of_another", "another run has a tiny store.disk_gb", small_budget_of_another
    ),
    Fault("no_locks", "killed on a disk that refuses locks", no_locks),
    Fault("private_umask", "killed under umask 077, resumed under 022", private_umask),
    Fault("stray_ranks", "WORLD_SIZE is left in the environment", stray_ranks),
    Fault("clock_jumps_ahead", "the clock jumps a day ahead in training", _clock(DAY_S)),
    Fault("clock_jumps_back", "the clock jumps a day back in training", _clock(-DAY_S)),
)
# Rows that begin to hold when a run notices edits in training, and damaged settings of a run. Move
# them into FAULTS then.
LATER: tuple[Fault, ...] = (
    Fault("changed_in_training", "an image is edited in training", changed_in_training),
    Fault(
        "config_damaged", "a finished run's config.yaml is damaged", _refused_or_read("config.yaml")
    ),
    Fault(
        "hydra_damaged",
        "a finished run's .hydra/config.yaml is damaged",
        _refused_or_read(".hydra/config.yaml"),
    ),
    Fault(
        "overrides_damaged",
        "a finished run's .hydra/overrides.yaml is damaged",
        _refused_or_read(".hydra/overrides.yaml"),
    ),
)
