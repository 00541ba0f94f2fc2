"""Rows of a user's file that cannot be used, reported together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmbench.types import UserError

MAX_REASONS = 10  # in one message
MAX_ERRORS = 20  # images named in one message
MAX_INVALID_ROWS = 1000  # reading stops after so many: a million took half a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidRow:
    """A row of a user's file that cannot be used: its location and the reason."""

    location: str
    reason: str


def invalid_rows_error(invalid_rows: Sequence[InvalidRow], *, cure: str = "") -> UserError:
    """Return one error for all the rows, with a line for each reason.

    A line names the first row with its reason and counts the others. `cure` is the last line, for
    what the reasons do not say.
    """
    locations: dict[str, list[str]] = {}
    for row in invalid_rows:
        locations.setdefault(row.reason, []).append(row.location)

    named = list(locations.items())[:MAX_REASONS]
    lines = [f"{rows[0]}: {reason}{_count_more(len(rows) - 1)}" for reason, rows in named]

    num_unnamed = len(invalid_rows) - sum(len(rows) for _, rows in named)
    if num_unnamed:
        lines.append(f"... and {_rows(num_unnamed, 'more ')}")
    if cure:
        lines.append(cure)
    return UserError("\n".join(lines))


def stop_note(path: Path, invalid_rows: Sequence[InvalidRow]) -> str:
    """Return that reading stopped at MAX_INVALID_ROWS invalid rows; "" for fewer."""
    if len(invalid_rows) < MAX_INVALID_ROWS:
        return ""
    return f"reading {path} stopped after {MAX_INVALID_ROWS} invalid rows"


def _count_more(number: int) -> str:
    return f" (also in {_rows(number, 'more ')})" if number else ""


def _rows(number: int, word: str) -> str:
    return f"{number} {word}{'row' if number == 1 else 'rows'}"
