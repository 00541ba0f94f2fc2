"""Sentences and facts about cells that no table of metrics holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmbench.report.cells import Cell
from vlmbench.report.figures import MISSING_FIGURE, Figure, figure, percent, plain
from vlmbench.report.verdicts import BASELINE, Finding, Refusal
from vlmbench.rundir import State
from vlmbench.types import Task

FEW = 3  # cells that are named one by one, even if it is all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """Something that whoever reads the figures must know, and the cells or comparisons that it is about."""

    text: str
    about: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The last logged values of a cell's training."""

    label: str
    step: str
    loss: str
    eval_loss: str
    eval_balanced_accuracy: str


WHY = {str(State.PRUNED): ": its training was stopped, because finished cells had done better by then"}


def cautions(cells: Sequence[Cell], refused: Sequence[Refusal]) -> list[Caution]:
    """Cells without figures, comparisons that failed, then the warnings and notes of every cell; each text once."""
    told: dict[str, list[str]] = {}
    for cell in cells:
        if not cell.finished:
            detail = f": {cell.error}" if cell.error else WHY.get(cell.state, "")
            told.setdefault(f"No figures from a {cell.state} cell{detail}", []).append(cell.label)
    for refusal in refused:
        told.setdefault(f"No comparison: {refusal.reason}", []).append(refusal.question.name)
    for cell in cells:
        for text in (*cell.metrics.get("data", {}).get("warnings", ()), *cell.metrics.get("notes", ())):
            told.setdefault(str(text), []).append(cell.label)
    return [Caution(text=text, about=tuple(dict.fromkeys(labels))) for text, labels in told.items()]


def outcome(cells: Sequence[Cell], found: Sequence[Finding]) -> str:
    """Why there is no answer to the main question; "" where there is one."""
    if any(finding.question.main for finding in found):
        return ""
    if not any(cell.finished for cell in cells):
        return "No cell has finished, so there is nothing to tell yet."
    return (
        f"These cells hold no difference to tell: that takes a finished cell of {BASELINE} and a finished cell of "
        "another variant, with the same model, setting and seed, and their predictions on held-out raw pairs."
    )


def doubts(cells: Sequence[Cell]) -> list[str]:
    """A sentence on the cells whose balanced accuracy on held-out raw pairs may be a coin's, and one on worse ones."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        shown = _pair_figure(cell, "balanced_accuracy")
        if shown.low is not None and shown.high is not None and shown.low <= 0.5:
            verdict = "Not told apart from guessing" if shown.high >= 0.5 else "Worse than guessing"
            found.setdefault(verdict, []).append(f"{cell.label} ({shown.interval})")
    return [
        f"{verdict}, by the interval of their balanced accuracy: {_all_or_named(labels, len(cells))}."
        for verdict, labels in found.items()
    ]


def _all_or_named(labels: Sequence[str], number: int) -> str:
    return f"all {number} cells" if len(labels) == number > FEW else ", ".join(labels)


def _pair_figure(cell: Cell, name: str) -> Figure:
    return figure(name, cell.scores.get(Task.JUDGE_PAIR, {}).get("raw", {}).get(name))


def progress(cells: Sequence[Cell]) -> list[Progress]:
    """One row for each cell with a training log."""
    return [
        Progress(
            label=cell.label,
            step=str(cell.log[-1].get("step", MISSING_FIGURE)),
            loss=_last(cell, "loss"),
            eval_loss=_last(cell, "eval_loss"),
            eval_balanced_accuracy=_last(cell, "eval_balanced_accuracy", share=True),
        )
        for cell in cells
        if cell.log
    ]


def _last(cell: Cell, key: str, *, share: bool = False) -> str:
    values = [row[key] for row in cell.log if row.get(key) is not None]
    return MISSING_FIGURE if not values else percent(values[-1]) if share else plain(values[-1])
