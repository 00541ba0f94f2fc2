"""A sweep's folder: the runs in it, and the report about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlmbench.runs.folder import RunDir
from vlmbench.system.text import typed_setting
from vlmbench.types import UserError


@dataclass(frozen=True, slots=True)
class SweepDir:
    """A folder of runs that one report is about.

    runs/<sweep>/report/ holds index.html, report.md and verdicts.json.
    """

    path: Path

    @property
    def report(self) -> Path:
        return self.path / "report"

    def runs(self) -> list[RunDir]:
        """Return every run with a status, in the order of its number. Raise UserError for none."""
        runs = [RunDir(path.parent) for path in self.path.glob("*/status.json")]
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
    return int(head) if head.isdigit() else None


def _sort_number(folder: Path) -> float:
    number = run_number(folder)
    return float("inf") if number is None else number
