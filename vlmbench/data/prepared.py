"""Write folders of images with their manifest, once for each configuration that makes them."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from vlmbench.data.invalid_rows import InvalidRow
from vlmbench.system.files import explain_disk_errors, make_folder, sync, sync_tree
from vlmbench.system.locks import hold
from vlmbench.system.reading import read_regular
from vlmbench.types import Record, UserError

log = logging.getLogger(__name__)

MANIFEST = "manifest.jsonl"
INVALID_ROWS = "invalid_rows.json"
MAX_INVALID = 5_000_000  # bytes of INVALID_ROWS
MAX_NAMED = 100  # invalid rows with location and reason


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutRows:
    """The rows left out of a prepared folder: `count` of `total`, the first ones in `named`."""

    count: int
    total: int
    named: tuple[InvalidRow, ...]

    @property
    def sentence(self) -> str:
        first = self.named[0]
        return (
            f"{self.count} of {self.total} rows were invalid and were left out "
            f"(source.invalid_rows=skip), the first at {first.location}: {first.reason}"
        )


def prepared_folder(data_dir: Path, name: str, settings: Any, fill: Callable[[Path], None]) -> Path:
    """Return the path of the manifest in the folder `data_dir/<name>-<hash of settings>`.

    `settings` is a dataclass of everything that the files depend on. If the folder does not exist,
    `fill(empty folder)` writes its files. The folder then appears complete or not at all, also
    when several processes start at once or one is killed.
    """
    text = json.dumps(asdict(settings), sort_keys=True, default=str)
    target = data_dir / f"{name}-{sha256(text.encode()).hexdigest()[:12]}"

    if not target.exists():  # no lock if it does: another user's folder may be read-only here
        data_dir.mkdir(parents=True, exist_ok=True)
        with hold(data_dir / f".{target.name}.lock"):
            if not target.exists():
                with explain_disk_errors(str(target)):
                    _fill_folder(target, fill)

    if not (target / MANIFEST).is_file():
        raise UserError(
            f"{target}: {MANIFEST} is missing in this prepared folder; {removal_cure(target)}"
        )
    return target / MANIFEST


def removal_cure(folder: Path) -> str:
    """Return the cure for a prepared folder that somebody changed."""
    return f"remove the folder, and it is prepared again: rm -r {shlex.quote(str(folder))}"


@contextmanager
def explain_damage(manifest: Path, data_dir: Path) -> Iterator[None]:
    """Add the cure to errors of the block, if the manifest is in a prepared folder."""
    try:
        yield
    except UserError as error:
        is_prepared = manifest.name == MANIFEST and manifest.parent.parent == data_dir
        if not is_prepared:
            raise
        raise UserError(
            f"{error}\nvlmbench prepared this folder, so it was changed since; "
            f"{removal_cure(manifest.parent)}"
        ) from error


def _fill_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a hidden folder beside the target and rename it when it is complete."""
    data_dir = target.parent
    for abandoned in data_dir.glob(f".{target.name}.*/"):  # by processes that were killed
        shutil.rmtree(abandoned)

    unfinished = make_folder(data_dir, prefix=f".{target.name}.")
    try:
        fill(unfinished)
        sync_tree(unfinished)
        unfinished.rename(target)
        sync(data_dir)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def manifest_row(record: Record, folder: Path) -> dict[str, Any]:
    """Return a record's JSON object without defaults. Image paths are relative to `folder`."""
    images = []
    for image in record.images:
        image_row = {
            "path": image.path.relative_to(folder).as_posix(),
            "role": image.role,
            "view": image.view,
        }
        if image.sha256:
            image_row["sha256"] = image.sha256
        images.append(image_row)

    row = {
        "id": record.id,
        "task": record.task,
        "group": record.group,
        "label": record.label,
        "answer": record.answer,
        "images": images,
    }
    optional = {
        "question": record.question,
        "options": dict(record.options),
        "split": record.split,
        "meta": dict(record.meta),
    }
    return row | {key: value for key, value in optional.items() if value}


def write_manifest(folder: Path, records: Iterable[Record]) -> None:
    """Write the records into the folder's manifest. Their images must lie in the folder."""
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        for record in records:
            row = manifest_row(record, folder)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_invalid_rows(folder: Path, invalid_rows: Sequence[InvalidRow], *, total: int) -> None:
    """Write which of `total` rows were left out, beside the manifest. No rows: no file."""
    if not invalid_rows:
        return

    named = [asdict(row) for row in invalid_rows[:MAX_NAMED]]
    content = {"count": len(invalid_rows), "total": total, "named": named}
    text = json.dumps(content, ensure_ascii=False, indent=2)
    (folder / INVALID_ROWS).write_text(text + "\n", encoding="utf-8")


def read_invalid_rows(manifest: Path) -> LeftOutRows | None:
    """Return the rows left out of a prepared folder.

    Returns None if there are none, or if vlmbench did not prepare the folder of this manifest.
    """
    path = manifest.with_name(INVALID_ROWS)
    if manifest.name != MANIFEST or not path.is_file():
        return None

    try:
        rows = msgspec.json.decode(read_regular(path, limit=MAX_INVALID), type=LeftOutRows)
        if not 0 < len(rows.named) <= rows.count <= rows.total:
            raise ValueError("its numbers do not fit its rows")
    except (OSError, ValueError, RecursionError, UserError) as error:
        log.warning("%s: passed over, vlmbench did not write it (%s); rename the file", path, error)
        return None
    return rows
