"""Runs in the folders that commands made."""

from __future__ import annotations

from pathlib import Path

from vlmbench.runs.folder import RunDir
from vlmbench.runs.sweep import SweepDir


def only_run(folder: Path) -> RunDir:
    """Return the one run of the one sweep below a folder."""
    (sweep,) = (folder / "runs").glob("*/")
    (only,) = SweepDir(sweep).runs()
    return RunDir(only.path)
