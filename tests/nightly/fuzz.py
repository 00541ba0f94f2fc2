"""One target of coverage-guided fuzzing: `python -m tests.nightly.fuzz picture -max_total_time=60 -timeout=10`.

What a reader raises besides UserError is a finding, and so is what takes longer than the timeout.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vlmbench.data", "vlmbench.rundir", "vlmbench.backbones.saved", "PIL"]):
    from PIL import Image

    from vlmbench.data.load import read_pictures
    from vlmbench.data.manifest import open_manifest
    from vlmbench.data.pictures import FORMATS, picture_facts
    from vlmbench.files import SEAL, damage
    from vlmbench.rundir import RunDir
from vlmbench.types import UserError

SUFFIXES = [suffix for suffixes in FORMATS.values() for suffix in suffixes]


def picture(folder: Path, content: bytes) -> None:
    """Under each kind's name: what follows depends on it."""
    path = folder / f"a{SUFFIXES[content[0] % len(SUFFIXES)] if content else '.png'}"
    path.write_bytes(content[1:])
    try:
        picture_facts(path, inside=folder)
    finally:
        path.unlink()


def manifest(folder: Path, content: bytes) -> None:
    path = folder / "mine.jsonl"
    path.write_bytes(content)
    read_pictures(open_manifest(path), folder / ".cache")


def run(folder: Path, content: bytes) -> None:
    """Every file of a run that is read again."""
    cell = RunDir(folder)
    for name in ("status.json", "metrics.json", "predictions.jsonl", "train_log.jsonl", "choices.json"):
        (folder / name).write_bytes(content)
    for read in (cell.read_status, cell.read_train_log, cell.read_choices, cell.read_metrics, cell.read_predictions):
        read()


def seal(folder: Path, content: bytes) -> None:
    (folder / SEAL).write_bytes(content)
    damage(folder)


TARGETS: dict[str, Callable[[Path, bytes], None]] = {"picture": picture, "manifest": manifest, "run": run, "seal": seal}


def seeds(folder: Path) -> None:
    """Where mutation starts."""
    for number, suffix in enumerate(SUFFIXES):
        path = folder / f"seed{suffix}"
        Image.linear_gradient("L").resize((9, 7)).convert("RGB").save(path)
        path.write_bytes(bytes([number]) + path.read_bytes())
    row = b'{"id":"a","task":"judge_single","group":"g","label":"normal","images":[{"path":"a.png","role":"query"}]}\n'
    (folder / "row").write_bytes(row)
    prediction = b'{"id":"a","task":"judge_single","group":"g","view":"raw","expected":"normal","predicted":"normal",'
    (folder / "prediction").write_bytes(prediction + b'"probe":"none","of":[],"images":["a.png"]}\n')
    (folder / "seal").write_bytes(b'{"of": "x", "xxh3_128": {"a": "b"}}')


def main() -> None:
    """Fuzz the target that the first argument names; the others are libFuzzer's."""
    name = sys.argv.pop(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as corpus, tempfile.TemporaryDirectory() as work:
        seeds(Path(corpus))

        def one(content: bytes) -> None:
            try:
                TARGETS[name](Path(work), content)
            except UserError:
                return

        atheris.Setup([*sys.argv, corpus], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
