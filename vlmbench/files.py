"""Files that outlast a kill, a crash and a full disk: written whole, forced to the disk, and checked when read.

A rename may reach the disk before what the renamed file holds, and may itself be lost: whatever counts on a file
forces the file first, then its name.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from vlmbench.types import UserError

SEAL = "checksums.json"  # the last file of a folder that is whole
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM})
BLOCK = 1 << 20  # bytes read at once


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk does not say what was written
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    if os.name != "posix" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Force everything in a folder to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before its names
        sync(path)
    sync(folder)


def digest(path: Path) -> str:
    """XXH3, 128 bits, of a file's bytes."""
    found = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def seal(folder: Path, *, of: str = "") -> None:
    """Say that a folder is whole: the checksums of its files, and what it is `of`, written last."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SEAL]
    sync_tree(folder)
    sums = {path.relative_to(folder).as_posix(): digest(path) for path in files}
    write_whole(folder / SEAL, json.dumps({"of": of, "xxh3_128": sums}, indent=1) + "\n")
    sync(folder.parent)


def unseal(folder: Path) -> None:
    """Before a sealed folder's files change."""
    (folder / SEAL).unlink(missing_ok=True)


def damage(folder: Path, *, of: str | None = None) -> str:
    """Why a folder cannot be trusted; "" for one whose files are as they were sealed, `of` the same."""
    path = folder / SEAL
    if not path.exists():
        return f"it was not written to its end ({SEAL} is missing)"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        sums, owner = dict(found["xxh3_128"]), found["of"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return f"{SEAL} is damaged"
    if of is not None and owner != of:
        return "it is of a run with other settings or other data"
    for name, expected in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if digest(folder / name) != expected:
            return f"{name} is damaged (its checksum is another)"
    return ""


@contextmanager
def needing_room(what: str) -> Iterator[None]:
    """A disk that is full or may only be read is the user's to mend: a UserError that names `what` was written; so is a
    file where a folder has to be made."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileExistsError | NotADirectoryError):
            place = Path(error.filename or "")
            in_the_way = next((one for one in (place, *place.parents) if one.is_file()), None)
            if in_the_way is not None:
                why = "a file is where a folder has to be; move it, or name another folder"
                raise UserError(f"{in_the_way}: {why}") from error
        if error.errno not in NO_ROOM:
            raise
        raise UserError(no_room(what, error)) from error


def no_room(what: str, error: BaseException) -> str:
    """What to say where something cannot be written."""
    return f"{what} cannot be written ({error}); make room there or allow to write, then start the same command again"
