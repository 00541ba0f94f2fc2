"""One target of coverage-guided fuzzing.

    python -m tests.nightly.fuzz image -max_total_time=60 -timeout=10

A reader may raise UserError. Any other error is a finding, and so is a reader that takes longer
than the timeout.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["vlmbench.data", "vlmbench.runs.folder", "vlmbench.backbones.adapters", "PIL"]
):
    from PIL import Image

    from vlmbench.data.images import FORMATS, image_facts
    from vlmbench.data.load import read_images
    from vlmbench.data.manifest import open_manifest
    from vlmbench.runs.folder import RunDir
    from vlmbench.system.files import SEAL, find_damage
from vlmbench.types import UserError

SUFFIXES = [suffix for suffixes in FORMATS.values() for suffix in suffixes]
RUN_FILES = (
    *("status.json", "metrics.json", "predictions.jsonl"),
    *("train_log.jsonl", "choices.json"),
)
ROW = (
    b'{"id":"a","task":"judge_single","group":"g","label":"normal",'
    b'"images":[{"path":"a.png","role":"query"}]}\n'
)
PREDICTION = (
    b'{"id":"a","task":"judge_single","group":"g","view":"raw","expected":"normal",'
    b'"predicted":"normal","probe":"none","of":[],"images":["a.png"]}\n'
)


def read_image(folder: Path, data: bytes) -> None:
    """Read an image; its first byte chooses the suffix, on which the reader depends."""
    suffix = SUFFIXES[data[0] % len(SUFFIXES)] if data else ".png"
    path = folder / f"a{suffix}"
    path.write_bytes(data[1:])
    try:
        image_facts(path, inside=folder)
    finally:
        path.unlink()


def read_manifest(folder: Path, data: bytes) -> None:
    path = folder / "mine.jsonl"
    path.write_bytes(data)
    read_images(open_manifest(path), folder / ".cache")


def read_run(folder: Path, data: bytes) -> None:
    """Read every file of a run that is read again."""
    run = RunDir(folder)
    for name in RUN_FILES:
        (folder / name).write_bytes(data)

    run.read_status()
    run.read_train_log()
    run.read_choices()
    run.read_metrics()
    run.read_predictions()


def read_seal(folder: Path, data: bytes) -> None:
    (folder / SEAL).write_bytes(data)
    find_damage(folder)


TARGETS: dict[str, Callable[[Path, bytes], None]] = {
    "image": read_image,
    "manifest": read_manifest,
    "run": read_run,
    "seal": read_seal,
}


def write_corpus(folder: Path) -> None:
    """Write the inputs with which mutation begins."""
    for number, suffix in enumerate(SUFFIXES):
        path = folder / f"seed{suffix}"
        Image.linear_gradient("L").resize((9, 7)).convert("RGB").save(path)
        path.write_bytes(bytes([number]) + path.read_bytes())

    (folder / "row").write_bytes(ROW)
    (folder / "prediction").write_bytes(PREDICTION)
    (folder / "seal").write_bytes(b'{"of": "x", "xxh3_128": {"a": "b"}}')


def main() -> None:
    """Fuzz the target that the first argument names; the other arguments are libFuzzer's."""
    read = TARGETS[sys.argv.pop(1)]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as corpus, tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(corpus))

        def read_input(data: bytes) -> None:
            try:
                read(Path(folder), data)
            except UserError:
                return

        atheris.Setup([*sys.argv, corpus], read_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
