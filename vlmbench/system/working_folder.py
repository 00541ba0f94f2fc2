"""Keep packages from obeying files of the working folder, which may be a stranger's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


@contextmanager
def leave_working_folder() -> Iterator[None]:
    """Run the block in vlmbench's own folder.

    matplotlib obeys ./matplotlibrc, and W&B obeys ./wandb/settings, which can name another server
    for the user's key. Both read them once.
    """
    before = Path.cwd()
    os.chdir(PACKAGE)
    try:
        yield
    finally:
        os.chdir(before)
