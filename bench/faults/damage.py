"""Files that a disk has cut short or changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.faults.fault import Facts, Fault, Rng, recovers, says
from bench.faults.stage import STEPS, Scene, Stage, at_row, die

ROWS = STEPS + STEPS // 2
Spoiled = tuple[str, int]  # how, and at which byte
UNREAD = ("README.md", "training_args.bin")


def cut(path: Path, rng: Rng) -> Spoiled:
    """Leave the first part of a file, maybe nothing."""
    size = int(rng.integers(0, path.stat().st_size))
    with path.open("r+b") as file:
        file.truncate(size)
    return f"{path.name} cut", size


def flip(path: Path, rng: Rng) -> Spoiled:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    at = int(rng.integers(len(content)))
    content[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return f"{path.name} changed", at


Damage = Callable[[Path, Rng], Spoiled]


def _checkpoint(spoil: Damage) -> Callable[[Stage, Rng], Facts]:
    """The last checkpoint is damaged: the one before it serves."""

    def befall(stage: Stage, rng: Rng) -> Facts:
        scene = _broken(stage, rng)
        last = max(scene.cell.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        files = sorted(path for path in last.iterdir() if path.name not in UNREAD)
        how, at = spoil(files[int(rng.integers(len(files)))], rng)
        facts = recovers(stage, scene)
        said = (scene.folder / "output.txt").read_text(encoding="utf-8")
        assert f"{last.name} is not used" in said, said[-1500:]
        return {"checkpoint": last.name, "how": how, "at_byte": at, **facts}

    return befall


def best_checkpoint(stage: Stage, rng: Rng) -> Facts:
    """The adapter that was the best so far is damaged: what counts on it is not used."""
    scene = _broken(stage, rng)
    first = min(scene.cell.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    how, at = flip(first / "adapter_model.safetensors", rng)
    return {"checkpoint": first.name, "how": how, "at_byte": at, **recovers(stage, scene)}


def _adapter(spoil: Damage) -> Callable[[Stage, Rng], Facts]:
    """A finished run's adapter: it judges no picture, and the run's command mends it."""

    def befall(stage: Stage, rng: Rng) -> Facts:
        scene = stage.scene(finished=True)
        how, at = spoil(scene.cell.adapter / "adapter_model.safetensors", rng)
        reference, query = sorted((scene.folder / "data").rglob("*.png"))[:2]
        ask = ("stage=predict", f"run={scene.cell.path}", f"images=[{reference},{query}]")
        said = says(scene.run(*ask), "the adapter cannot be trusted", "start the run's command again")
        facts = recovers(stage, scene)
        says(scene.run(*ask), '"decision"', code=0)
        return {"how": how, "at_byte": at, "said": said, **facts}

    return befall


def _result(name: str, spoil: Damage, *, reported: bool) -> Callable[[Stage, Rng], Facts]:
    """A file of a finished run: the report is not made of it, and the run's command mends it."""

    def befall(stage: Stage, rng: Rng) -> Facts:
        scene = stage.scene(finished=True)
        how, at = spoil(scene.cell.path / name, rng)
        facts: Facts = {"how": how, "at_byte": at}
        if reported:
            facts["said"] = says(scene.run("stage=report"), "start the cell's command again")
        return {**facts, **recovers(stage, scene, same_log=name != "train_log.jsonl")}

    return befall


def broken_status(stage: Stage, rng: Rng) -> Facts:
    """A run that was killed, and its status cut short: its checkpoints say whose they are."""
    scene = _broken(stage, rng)
    how, at = cut(scene.cell.path / "status.json", rng)
    return {"how": how, "at_byte": at, **recovers(stage, scene)}


def _cached(folder: str, pattern: str, spoil: Damage) -> Callable[[Stage, Rng], Facts]:
    """Something kept from earlier runs: it is made again."""

    def befall(stage: Stage, rng: Rng) -> Facts:
        scene = stage.scene()
        files = sorted((scene.folder / folder).rglob(pattern))
        hows = [spoil(path, rng) for path in files[:: max(1, len(files) // 10)]]
        return {"files": len(hows), **recovers(stage, scene)}

    return befall


def lost_rename(stage: Stage, rng: Rng) -> Facts:
    """After a kill, the last file that got its name has lost it, as on a disk whose power failed."""
    scene = _broken(stage, rng)
    newest = _newest(scene)
    newest.unlink()
    return {"lost": newest.name, **recovers(stage, scene, same_log=newest.name != "train_log.jsonl")}


def lost_content(stage: Stage, rng: Rng) -> Facts:
    """After a kill, the last file that was written has its name and no content."""
    scene = _broken(stage, rng)
    newest = _newest(scene)
    newest.write_bytes(b"")
    return {"lost": newest.name, **recovers(stage, scene, same_log=newest.name != "train_log.jsonl")}


def _broken(stage: Stage, rng: Rng) -> Scene:
    """A run that was killed after its second checkpoint."""
    scene, row = stage.scene(), int(rng.integers(ROWS // 2 + 1, ROWS + 1))
    scene.run(spoil=at_row(row, die))
    return scene


def _newest(scene: Scene) -> Path:
    files = [path for path in scene.cell.path.rglob("*") if path.is_file() and ".hydra" not in path.parts]
    files = [path for path in files if path.suffix not in (".lock", ".log") and path.name != ".lock"]
    return max(files, key=lambda path: path.stat().st_mtime_ns)


FAULTS = (
    Fault("checkpoint_cut", "the last checkpoint has a file cut short", _checkpoint(cut)),
    Fault("checkpoint_flipped", "the last checkpoint has a bit changed", _checkpoint(flip)),
    Fault("best_checkpoint_flipped", "the best checkpoint has a bit changed", best_checkpoint),
    Fault("adapter_cut", "a finished run's adapter is cut short", _adapter(cut)),
    Fault("adapter_flipped", "a finished run's adapter has a bit changed", _adapter(flip)),
    Fault(
        "predictions_cut",
        "its predictions are cut short",
        _result("predictions.jsonl", cut, reported=False),
    ),
    Fault("predictions_flipped", "they have a bit changed", _result("predictions.jsonl", flip, reported=True)),
    Fault("metrics_cut", "its metrics are cut short", _result("metrics.json", cut, reported=True)),
    Fault("status_cut", "its status is cut short", _result("status.json", cut, reported=False)),
    Fault("train_log_cut", "its training log is cut short", _result("train_log.jsonl", cut, reported=False)),
    Fault("broken_status", "a killed run's status is cut short", broken_status),
    Fault("tokens_cut", "entries of the token store are cut short", _cached(".cache/features", "*.safetensors", cut)),
    Fault("tokens_flipped", "they have a bit changed", _cached(".cache/features", "*.safetensors", flip)),
    Fault("views_cut", "processed pictures are cut short", _cached(".cache/views", "*.png", cut)),
    Fault("facts_cut", "what was read of the pictures is cut short", _cached(".cache/pictures", "*.npz", cut)),
    Fault("facts_flipped", "it has a bit changed", _cached(".cache/pictures", "*.npz", flip)),
    Fault("lost_rename", "killed, and the last rename is lost", lost_rename),
    Fault("lost_content", "killed, and what was written last is empty", lost_content),
)
