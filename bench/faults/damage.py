"""Files that a disk has cut short or changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.faults.fault import Facts, Fault, Inject, Rng, require_message, require_recovery
from bench.faults.moments import at_log_row, die
from bench.faults.trial import LOG_ROWS, Reference, Trial

Damage = Callable[[Path, Rng], Facts]
NOT_READ = ("README.md", "training_args.bin")  # files of a checkpoint
RUN_AGAIN = "start the run's command again"
NOT_DATA = (".lock", ".log")
MAX_DAMAGED = 10  # about so many files of a cache are damaged


def cut(path: Path, rng: Rng) -> Facts:
    """Leave the first bytes of a file, perhaps none."""
    size = int(rng.integers(0, path.stat().st_size))
    with path.open("r+b") as file:
        file.truncate(size)
    return {"damage": f"{path.name} cut", "at_byte": size}


def flip(path: Path, rng: Rng) -> Facts:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    position = int(rng.integers(len(data)))
    data[position] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return {"damage": f"{path.name} changed", "at_byte": position}


def best_checkpoint(reference: Reference, rng: Rng) -> Facts:
    """Damage the adapter that was the best so far: no checkpoint that needs it is used."""
    trial = _start_and_kill(reference, rng)
    first = min(trial.run_folder.checkpoints.glob("checkpoint-*"), key=_step)
    facts = flip(first / "adapter_model.safetensors", rng)
    return {"checkpoint": first.name, **facts, **require_recovery(reference, trial)}


def broken_status(reference: Reference, rng: Rng) -> Facts:
    """Cut the status of a killed run: its checkpoints name their owner."""
    trial = _start_and_kill(reference, rng)
    facts = cut(trial.run_folder.path / "status.json", rng)
    return {**facts, **require_recovery(reference, trial)}


def lost_rename(reference: Reference, rng: Rng) -> Facts:
    """Kill the run and remove the file that was renamed last, as a power failure may do."""
    trial = _start_and_kill(reference, rng)
    newest = _newest_file(trial)
    newest.unlink()
    same_log = newest.name != "train_log.jsonl"
    return {"lost": newest.name, **require_recovery(reference, trial, same_log=same_log)}


def lost_bytes(reference: Reference, rng: Rng) -> Facts:
    """Kill the run and empty the file that was written last."""
    trial = _start_and_kill(reference, rng)
    newest = _newest_file(trial)
    newest.write_bytes(b"")
    same_log = newest.name != "train_log.jsonl"
    return {"lost": newest.name, **require_recovery(reference, trial, same_log=same_log)}


def _checkpoint(damage: Damage) -> Inject:
    """Damage the last checkpoint: the run resumes from the one before it."""

    def inject(reference: Reference, rng: Rng) -> Facts:
        trial = _start_and_kill(reference, rng)
        last = max(trial.run_folder.checkpoints.glob("checkpoint-*"), key=_step)
        files = sorted(path for path in last.iterdir() if path.name not in NOT_READ)
        facts = damage(files[int(rng.integers(len(files)))], rng)

        facts |= require_recovery(reference, trial)
        output = trial.last_output()
        assert f"{last.name} is not used" in output, output[-1500:]
        return {"checkpoint": last.name, **facts}

    return inject


def _adapter(damage: Damage) -> Inject:
    """Damage a finished run's adapter: it judges no image, and the run's command mends it."""

    def inject(reference: Reference, rng: Rng) -> Facts:
        trial = reference.new_trial(finished=True)
        facts = damage(trial.run_folder.adapter / "adapter_model.safetensors", rng)

        pair = sorted((trial.folder / "data").rglob("*.png"))[:2]
        images = f"images=[{','.join(map(str, pair))}]"
        predict = ("stage=predict", f"run={trial.run_folder.path}", images)
        refused = trial.run(*predict)
        facts["message"] = require_message(refused, "the adapter cannot be trusted", RUN_AGAIN)

        facts |= require_recovery(reference, trial)
        require_message(trial.run(*predict), '"decision"', code=0)
        return facts

    return inject


def _result(name: str, damage: Damage, *, reported: bool) -> Inject:
    """Damage a file of a finished run: it costs this run alone, and the run's command mends it."""

    def inject(reference: Reference, rng: Rng) -> Facts:
        trial = reference.new_trial(finished=True)
        facts = damage(trial.run_folder.path / name, rng)
        if reported:
            facts["message"] = require_message(trial.run("stage=report"), RUN_AGAIN, code=0)

        same_log = name != "train_log.jsonl"
        return {**facts, **require_recovery(reference, trial, same_log=same_log)}

    return inject


def _cached(folder: str, pattern: str, damage: Damage) -> Inject:
    """Damage files in a cache: they are made again."""

    def inject(reference: Reference, rng: Rng) -> Facts:
        trial = reference.new_trial()
        files = sorted((trial.folder / folder).rglob(pattern))
        damaged = files[:: max(1, len(files) // MAX_DAMAGED)]
        for path in damaged:
            damage(path, rng)
        return {"files": len(damaged), **require_recovery(reference, trial)}

    return inject


def _start_and_kill(reference: Reference, rng: Rng) -> Trial:
    """Return a trial whose run was killed after its second checkpoint."""
    trial, row = reference.new_trial(), int(rng.integers(LOG_ROWS // 2 + 1, LOG_ROWS + 1))
    trial.run(prepare=at_log_row(row, die))
    return trial


def _newest_file(trial: Trial) -> Path:
    """Return the file of the run that was written last."""
    paths = [path for path in trial.run_folder.path.rglob("*") if path.is_file()]
    files = [
        path
        for path in paths
        if ".hydra" not in path.parts and path.suffix not in NOT_DATA and path.name != ".lock"
    ]
    return max(files, key=lambda path: path.stat().st_mtime_ns)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


FAULTS = (
    Fault("checkpoint_cut", "a file of the last checkpoint is cut short", _checkpoint(cut)),
    Fault("checkpoint_flipped", "a bit of the last checkpoint is changed", _checkpoint(flip)),
    Fault("best_checkpoint_flipped", "a bit of the best checkpoint is changed", best_checkpoint),
    Fault("adapter_cut", "a finished run's adapter is cut short", _adapter(cut)),
    Fault("adapter_flipped", "a bit of a finished run's adapter is changed", _adapter(flip)),
    Fault(
        "predictions_cut",
        "a finished run's predictions are cut short",
        _result("predictions.jsonl", cut, reported=False),
    ),
    Fault(
        "predictions_flipped",
        "a bit of a finished run's predictions is changed",
        _result("predictions.jsonl", flip, reported=True),
    ),
    Fault(
        "metrics_cut",
        "a finished run's metrics are cut short",
        _result("metrics.json", cut, reported=True),
    ),
    Fault(
        "status_cut",
        "a finished run's status is cut short",
        _result("status.json", cut, reported=False),
    ),
    Fault(
        "train_log_cut",
        "a finished run's training log is cut short",
        _result("train_log.jsonl", cut, reported=False),
    ),
    Fault("broken_status", "a killed run's status is cut short", broken_status),
    Fault(
        "tokens_cut",
        "entries of the token store are cut short",
        _cached(".cache/features", "*.safetensors", cut),
    ),
    Fault(
        "tokens_flipped",
        "a bit of entries of the token store is changed",
        _cached(".cache/features", "*.safetensors", flip),
    ),
    Fault("views_cut", "processed images are cut short", _cached(".cache/views", "*.png", cut)),
    Fault(
        "facts_cut",
        "the cached hashes and sizes of images are cut short",
        _cached(".cache/images", "*.npz", cut),
    ),
    Fault(
        "facts_flipped",
        "a bit of the cached hashes and sizes of images is changed",
        _cached(".cache/images", "*.npz", flip),
    ),
    Fault("lost_rename", "killed, and the last rename is lost", lost_rename),
    Fault("lost_content", "killed, and the file that was written last is empty", lost_bytes),
)
