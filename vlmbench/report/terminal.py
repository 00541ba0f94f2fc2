"""The figures as aligned text, in characters that any terminal has (names of the user's own excepted)."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.report.cells import Cell
from vlmbench.report.escape import one_line
from vlmbench.report.tables import Column, accuracy_table, headline_table, remark
from vlmbench.types import Task

COLUMNS_PER_BLOCK = 4


def plain_tables(cells: Sequence[Cell]) -> str:
    """The main figures on held-out raw pairs, then accuracy on every other task and view; all in percent.

    A block has a line for each cell, and one for the number of records (and parts) that the column rests on.
    """
    main = [column for column in headline_table(cells).columns if column.name != "auroc"]
    others = [c for c in accuracy_table(cells).columns if (c.task, c.view) != (Task.JUDGE_PAIR, "raw")]
    blocks = [_block("judge_pair raw, held out: % (95 % interval)", main, [c.title.lower() for c in main], cells)]
    for start in range(0, len(others), COLUMNS_PER_BLOCK):
        part = others[start : start + COLUMNS_PER_BLOCK]
        title = "other held-out records, accuracy: % (95 % interval)"
        blocks.append(_block(title, part, [f"{c.task} {c.view}" for c in part], cells))
    return "\n\n".join(blocks) + "\n"


def plain_states(cells: Sequence[Cell]) -> str:
    """A line for each cell: its folder, how far it came, how long that took, and what stopped it."""
    grid = [["cell", "state", "minutes", ""]]
    grid += [[one_line(cell.name), one_line(cell.state), _minutes(cell), one_line(cell.note)] for cell in cells]
    return "\n".join(_aligned(grid))


def _minutes(cell: Cell) -> str:
    seconds = cell.status.get("seconds")
    return f"{seconds / 60:.1f}" if isinstance(seconds, int | float) else "-"


def _aligned(grid: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in grid]


def _block(title: str, columns: Sequence[Column], heads: Sequence[str], cells: Sequence[Cell]) -> str:
    grid = [["cell", *heads]]
    grid += [[_label(cell), *(_percent(column, cell) for column in columns)] for cell in cells if cell.finished]
    grid.append(["records (parts)", *(_counts(column, cells) for column in columns)])
    lines = _aligned(grid)
    lines += [f"{_label(cell)}  {one_line(remark(cell))}" for cell in cells if not cell.finished]
    return "\n".join([title, *lines])


def _label(cell: Cell) -> str:
    return one_line(cell.label.replace(" · ", " "))


def _percent(column: Column, cell: Cell) -> str:
    shown = column.of(cell)
    if shown.value is None:
        return "-"
    if shown.low is None or shown.high is None:
        return f"{100 * shown.value:.1f}"
    return f"{100 * shown.value:.1f} ({100 * shown.low:.1f}-{100 * shown.high:.1f})"


def _counts(column: Column, cells: Sequence[Cell]) -> str:
    """One number where all cells agree, as they should; else the lowest and the highest."""
    shown = [column.of(cell) for cell in cells if cell.finished]
    return f"{_span([s.n for s in shown])} ({_span([s.n_groups for s in shown])})"


def _span(numbers: Sequence[int | None]) -> str:
    known = sorted({number for number in numbers if number is not None})
    return "-" if not known else str(known[0]) if len(known) == 1 else f"{known[0]}-{known[-1]}"
