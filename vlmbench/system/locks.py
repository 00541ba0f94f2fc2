"""Locks that one process holds at a time, also on disks that refuse locks, such as some NFS."""

from __future__ import annotations

import errno
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

log = logging.getLogger(__name__)

NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
PATIENCE_S = 5.0  # before a process says what it waits for
BREAK_S = 1.0  # a first try removes the marker of a dead process, a second one takes the lock
MARKER = ".marker"
_warned: set[Path] = set()  # folders whose disk is known to refuse locks


@contextmanager
def hold(path: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold the lock file `path`. Below 0, `timeout` (seconds) has no end.

    A disk without locks gets a marker file beside it. The marker of a dead process of this host is
    removed; that of another host stays, and the log says how to remove it. Raise filelock.Timeout
    if another process holds the lock.
    """
    lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
    try:
        _acquire(lock, timeout)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, Timeout) or getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
            raise
        _warn_once(path.parent, error)
        lock = SoftFileLock(path.with_name(f"{path.name}{MARKER}"))
        _acquire(lock, max(timeout, BREAK_S) if timeout >= 0 else timeout)

    try:
        yield
    finally:
        lock.release()


def cure_of(error: Timeout) -> str:
    """Return how to end the wait for a marker that a dead process left; "" for other locks."""
    if not error.lock_file.endswith(MARKER):
        return ""
    return f"; if no process works there, run rm {shlex.quote(error.lock_file)}"


def _acquire(lock: BaseFileLock, timeout: float) -> None:
    """Acquire a lock; after a while, say what is waited for."""
    if 0 <= timeout <= PATIENCE_S:
        lock.acquire(timeout=timeout)
        return

    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout as error:
        log.warning("waiting for the process that holds %s%s", error.lock_file, cure_of(error))
        lock.acquire(timeout=timeout if timeout < 0 else timeout - PATIENCE_S)


def _warn_once(folder: Path, error: BaseException) -> None:
    if folder not in _warned:
        _warned.add(folder)
        log.warning(
            "%s: the disk refuses locks (%s); marker files stand in for them", folder, error
        )
