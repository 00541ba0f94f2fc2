"""The private folder of a served page, with the dropped images and all that is made of them.

It is removed when the page closes. After a kill, the next page that is served removes it.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from vlmbench.system.locks import hold
from vlmbench.types import UserError

PREFIX = "vlmbench-uploads-"
LOCK_FILE = ".lock"
NEW_S = 60.0  # seconds in which a process locks the folder that it made


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield an empty folder that only this user may read; remove it, and those of dead processes.

    Raise UserError if there is no room for it.
    """
    try:
        base = Path(tempfile.gettempdir())
        _remove_abandoned(base)
        folder = Path(tempfile.mkdtemp(dir=base, prefix=PREFIX))
    except OSError as error:
        raise UserError(
            f"the folder for dropped images cannot be made ({error}); "
            "set a folder with room: export TMPDIR=$HOME"
        ) from error

    try:
        with hold(folder / LOCK_FILE, timeout=0):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(base: Path) -> None:
    """Remove this user's folders whose process was killed: nobody holds their locks."""
    for folder in base.glob(f"{PREFIX}*"):
        try:
            facts = folder.lstat()
            is_own = stat.S_ISDIR(facts.st_mode) and _is_mine(facts.st_uid)
            has_lock = (folder / LOCK_FILE).is_file()
            is_new = abs(time.time() - facts.st_mtime) < NEW_S
            if is_own and (has_lock or not is_new):
                with hold(folder / LOCK_FILE, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
        except (OSError, Timeout):  # its process lives, or another one removes it
            continue


def _is_mine(owner: int) -> bool:
    return os.name != "posix" or owner == os.getuid()


def bytes_in(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(parent, name).lstat().st_size
            except FileNotFoundError:  # deleted just now
                continue
    return total


def remove_unfinished(folder: Path) -> None:
    """Remove the files of uploads that broke off: finished ones lie in folders of their own."""
    for path in folder.iterdir():
        if path.is_file():
            path.unlink(missing_ok=True)
