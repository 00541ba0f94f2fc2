"""A sweep's folder: the runs in it, and the report about them."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from vlmbench.runs.folder import RunDir
from vlmbench.system.reading import LINK_CURE
from vlmbench.system.text import typed_setting
from vlmbench.types import UserError

log = logging.getLogger(__name__)

REPORT = "report"  # folder of the report in a sweep's folder
NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class SweepDir:
    """A folder of runs that one report is about.

    runs/<sweep>/report/ holds index.html, report.md and verdicts.json.
    """

    path: Path

    @property
    def report(self) -> Path:
        return self.path / REPORT

    def runs(self) -> list[RunDir]:
        """Return every run with a status, in the order of its number. Raise UserError for none.

        A run that is a link to another folder is left out with a warning.
        """
        runs = [RunDir(path.parent) for path in self.path.glob("*/status.json")]
        links = [run.path for run in runs if run.path.is_symlink()]
        for path in links:
            log.warning("%s: this run is left out: the folder is a link; %s", path, LINK_CURE)
        runs = [run for run in runs if run.path not in links]
        if not runs:
            raise UserError(f"{self.path}: the folder holds no run; {_sweep_cure(self.path)}")
        return sorted(runs, key=lambda run: (_sort_number(run.path), run.path.name))


def _sweep_cure(path: Path) -> str:
    """Return the cure for a folder without runs: the newest sweep beside it, or a first run."""
    sweeps = {status.parents[1] for status in path.parent.glob("*/*/status.json")}
    if not sweeps:
        return "start a run first, such as vlmbench experiment=quick"

    newest = max(sweeps, key=lambda sweep: sweep.stat().st_mtime)
    return f"set {typed_setting('sweep', newest)}"


def run_number(folder: Path) -> int | None:
    """Return the number at the start of a run folder's name; None if there is none."""
    head = folder.name.partition("_")[0]
    return int(head) if NUMBER.fullmatch(head) else None


def _sort_number(folder: Path) -> float:
    number = run_number(folder)
    return float("inf") if number is None else number
