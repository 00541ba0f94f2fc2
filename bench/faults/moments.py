"""Moments of a run at which a fault can be injected, and what it can do there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.faults.trial import Action
from vlmbench.runs.folder import RunDir

PAGE = 4096  # bytes: a small disk is filled to a page


def at_log_row(number: int, action: Action) -> Action:
    """Return what makes a run do `action` when it writes row `number` (from 1) of its log."""

    def prepare() -> None:
        append, rows = RunDir.append_train_log, iter(range(1, 10_000))

        def append_and_act(self: RunDir, row: Mapping[str, Any]) -> None:
            append(self, row)
            if next(rows) == number:
                action()

        RunDir.append_train_log = append_and_act  # type: ignore[method-assign]

    return prepare


def when_opening(part: str, action: Action, *, event: str = "open") -> Action:
    """Return what makes a run do `action` when it first opens a file with `part` in its path.

    The file must be opened for writing. With `event` "os.mkdir", it is a folder that is made.
    """

    def prepare() -> None:
        waiting = [action]

        def hook(name: str, arguments: tuple[Any, ...]) -> None:
            if name != event or not waiting or part not in str(arguments[0]):
                return
            if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
                waiting.pop()()

        sys.addaudithook(hook)

    return prepare


def die() -> None:
    """Kill this process, as SIGKILL from outside does."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a disk of `size` bytes on a folder. Raise PermissionError if that is not possible."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={max(size, PAGE)}"
    command = ["/bin/mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        raise PermissionError("no small disk can be mounted here")
    try:
        yield folder
    finally:
        while folder.is_mount():  # more than once, if a fault mounted something over it
            subprocess.run(["/bin/umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, num_left: int) -> None:
    """Write a file that leaves `num_left` bytes of a disk."""
    facts = os.statvfs(disk)
    num_bytes = max(0, facts.f_bavail * facts.f_frsize - num_left)
    with (disk / "filler").open("wb") as file:
        file.write(b"\0" * num_bytes)
