"""Folders of pictures and their manifest, made once and named by the content of the config that makes them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock

from vlmbench.data.wrongs import Misfit
from vlmbench.files import sync, sync_tree
from vlmbench.types import Record

MANIFEST = "manifest.jsonl"
MISFITS = "misfits.json"
MOST_NAMED = 100  # misfits whose places are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """The rows that were left out in preparing a folder: `count` of `total`, the first of them named."""

    count: int
    total: int
    named: tuple[Misfit, ...]

    @property
    def sentence(self) -> str:
        first = self.named[0]
        return (
            f"{self.count} of {self.total} rows did not fit and were left out (source.misfits=skip), the first at "
            f"{first.place}: {first.why}"
        )


def prepared_folder(data_dir: Path, name: str, content: Any, fill: Callable[[Path], None]) -> Path:
    """The folder `data_dir/<name>-<hash of content>`, filled by `fill(empty folder)` where it is not there yet.

    It appears whole or not at all, also when several processes ask at once or one is killed. `content` is a dataclass
    of everything that the files depend on. Gives the path of its manifest.
    """
    text = json.dumps(asdict(content), sort_keys=True, default=str)
    target = data_dir / f"{name}-{sha256(text.encode()).hexdigest()[:12]}"
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / f".{target.name}.lock"):
        if not target.exists():
            for abandoned in data_dir.glob(f".{target.name}.*/"):  # by processes that were killed
                shutil.rmtree(abandoned)
            unfinished = Path(tempfile.mkdtemp(dir=data_dir, prefix=f".{target.name}."))
            try:
                fill(unfinished)
                unfinished.chmod(0o755)
                sync_tree(unfinished)
                unfinished.rename(target)
                sync(data_dir)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
    return target / MANIFEST


def manifest_row(record: Record, folder: Path) -> dict[str, Any]:
    """The JSON object of a record: defaults left out, picture paths relative to `folder`."""
    images = []
    for image in record.images:
        row = {"path": image.path.relative_to(folder).as_posix(), "role": image.role, "view": image.view}
        images.append(row | ({"sha256": image.sha256} if image.sha256 else {}))
    row = {"id": record.id, "task": record.task, "group": record.group, "label": record.label, "answer": record.answer}
    optional = {
        "question": record.question,
        "options": dict(record.options),
        "split": record.split,
        "meta": dict(record.meta),
    }
    return {**row, "images": images, **{key: value for key, value in optional.items() if value}}


def write_manifest(folder: Path, records: Iterable[Record]) -> None:
    """Write the records into the folder's manifest; their pictures lie in the folder."""
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(manifest_row(record, folder), ensure_ascii=False) + "\n")


def write_misfits(folder: Path, misfits: Sequence[Misfit], *, total: int) -> None:
    """Keep beside the manifest which of `total` rows were left out; nothing where none was."""
    if misfits:
        named = [asdict(misfit) for misfit in misfits[:MOST_NAMED]]
        text = json.dumps({"count": len(misfits), "total": total, "named": named}, ensure_ascii=False, indent=2)
        (folder / MISFITS).write_text(text + "\n", encoding="utf-8")


def read_misfits(manifest: Path) -> LeftOut | None:
    """What was left out in preparing the folder of this manifest; None: nothing, or it was not prepared here."""
    path = manifest.with_name(MISFITS)
    if manifest.name != MANIFEST or not path.is_file():
        return None
    return msgspec.json.decode(path.read_bytes(), type=LeftOut)
