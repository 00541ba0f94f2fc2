"""Files that survive a kill, a crash and a full disk: complete, flushed to disk, checked when read.

A rename may reach the disk before the content of the renamed file, or may be lost. Code that
depends on a file therefore flushes the file first and its folder second.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from vlmbench.system.reading import UnreadableError, open_regular, read_regular
from vlmbench.types import UserError

log = logging.getLogger(__name__)

SEAL = "checksums.json"  # the last file that is written into a complete folder
# Errors of a disk that is full or read-only.
NO_ROOM = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
)
MAX_NAME = 255  # bytes in the name of a file or folder
BLOCK = 1 << 20  # bytes of one read
MAX_SEAL = 5_000_000  # bytes of checksums.json
MAX_SEALED = 20_000_000_000  # bytes of all files in a sealed folder


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old content or the new, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = make_file(path.parent, prefix=f".{path.name}.")

    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # The error of a full disk names no file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

    sync(path.parent)


def make_file(folder: Path, *, prefix: str = "", suffix: str = "") -> tuple[int, Path]:
    """Create an empty file with a new name; return its handle and its path.

    The umask decides who may read it. tempfile would make it for its owner alone.
    """
    path = folder / f"{prefix}{secrets.token_hex(8)}{suffix}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), path


def make_folder(folder: Path, *, prefix: str) -> Path:
    """Create an empty folder with a new name. The umask decides who may read it."""
    path = folder / f"{prefix}{secrets.token_hex(8)}"
    path.mkdir()
    return path


def follow_umask(folder: Path) -> None:
    """Let the umask decide who may read files that a library wrote for their owner alone."""
    handle, probe = make_file(folder, prefix=".mode.")
    os.close(handle)
    mode = probe.stat().st_mode & 0o777
    probe.unlink()

    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    if os.name != "posix" and path.is_dir():  # Windows cannot open a folder
        return

    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush everything in a folder to the disk."""
    # Reversed: the content of a folder comes before its names.
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)

    sync(folder)


def hash_file(path: Path, *, limit: int = MAX_SEALED) -> str:
    """Return the 128-bit XXH3 hash of a file.

    Raise UnreadableError for a link, a pipe and a file of more than `limit` bytes.
    """
    checksum = xxhash.xxh3_128()

    with open_regular(path, limit=limit) as file:
        while block := file.read(BLOCK):
            checksum.update(block)

    return checksum.hexdigest()


def seal(folder: Path, *, of: str = "") -> None:
    """Mark a folder as complete: write the checksums of its files, and its owner `of`, last."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SEAL]
    sync_tree(folder)

    checksums = {path.relative_to(folder).as_posix(): hash_file(path) for path in files}
    content = {"of": of, "xxh3_128": checksums}

    write_whole(folder / SEAL, json.dumps(content, indent=1) + "\n")
    sync(folder.parent)


def unseal(folder: Path) -> None:
    """Remove the mark of a complete folder, before its files change."""
    (folder / SEAL).unlink(missing_ok=True)


def find_damage(folder: Path, *, of: str | None = None) -> str:
    """Return why a folder cannot be trusted; "" if its files and its owner are as they were sealed.

    With `of` None, any owner is valid.
    """
    path = folder / SEAL
    if folder.is_symlink():
        return "it is a link, and must be a folder"
    if not path.exists():
        return f"it is incomplete ({SEAL} is missing)"

    try:
        content = json.loads(read_regular(path, limit=MAX_SEAL))
        checksums, owner = dict(content["xxh3_128"]), content["of"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return f"{SEAL} is damaged"

    if of is not None and owner != of:
        return "it belongs to a run with other settings or other data"
    return _find_changed(folder, checksums)


def _find_changed(folder: Path, checksums: Mapping[str, Any]) -> str:
    """Return which file of a sealed folder is not as it was sealed; "" if all are."""
    size = 0
    for name, expected in checksums.items():
        path = folder / name
        if not _is_inside(folder, name):
            return f"{SEAL} names {name!r}, which is outside of the folder"
        if not path.is_file():
            return f"{name} is missing"

        size += path.stat().st_size
        if size > MAX_SEALED:
            return f"it has more than {MAX_SEALED} bytes"
        try:
            is_same = hash_file(path) == expected
        except UnreadableError as error:
            return f"{name} cannot be read: {error}"
        if not is_same:
            return f"{name} is damaged (its checksum differs)"

    return ""


def _is_inside(folder: Path, name: str) -> bool:
    """Return whether the name of a sealed file, and the file itself, stay in the folder."""
    is_name = name.isprintable() and not PurePosixPath(name).is_absolute()
    if not is_name or ".." in PurePosixPath(name).parts:
        return False
    return (folder / name).resolve().is_relative_to(folder.resolve())


@contextmanager
def explain_disk_errors(target: str) -> Iterator[None]:
    """Raise UserError where the block meets a disk problem that the user can solve.

    Such problems are a full disk, a read-only disk, and a file at the path of a folder. The message
    names `target`, which the block writes.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise UserError(
                f"{error.filename or target}: {error.strerror} (a name has at most {MAX_NAME} "
                "bytes, and a Japanese letter has 3); name another path"
            ) from error
        if isinstance(error, IsADirectoryError):
            raise UserError(
                f"{error.filename} is a folder, and a file must be there; move the folder, "
                "then run the same command again"
            ) from error
        if isinstance(error, FileExistsError | NotADirectoryError):
            path = Path(error.filename or "")
            obstacle = next((parent for parent in (path, *path.parents) if parent.is_file()), None)
            if obstacle is not None:
                raise UserError(
                    f"{obstacle} is a file, and a folder must be there; "
                    "move the file, or name another folder"
                ) from error

        if error.errno not in NO_ROOM:
            raise
        raise UserError(no_room_message(target, error)) from error


def refuse_lost_folder() -> None:
    """Raise UserError if the working folder was deleted."""
    try:
        Path.cwd()
    except OSError as error:
        raise UserError(
            f"the working folder does not exist any more ({error}); write cd ~ and start again"
        ) from error


@contextmanager
def skip_if_forbidden(path: Path) -> Iterator[None]:
    """Log a warning where the block must not write a cached file: its folder is another user's."""
    try:
        yield
    except PermissionError as error:
        log.warning("%s: nothing is cached there (%s); set cache_dir=.cache to cache", path, error)


def no_room_message(target: str, error: BaseException) -> str:
    """Return the message for a `target` that cannot be written."""
    return (
        f"{target} cannot be written ({error}); make room there or allow writing, "
        "then run the same command again"
    )
