"""Rows of somebody's file that cannot be used, told together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmbench.types import UserError

MOST_REASONS = 10  # named in one message
MAX_ERRORS = 20  # pictures named in one message


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """A row of somebody's file that cannot be used: where it stands, and why not."""

    place: str
    why: str


def refusal(misfits: Sequence[Misfit], *, cure: str = "") -> UserError:
    """One error of all the rows: those with the same reason are a line, the first of them named and the others counted.

    `cure` is a last line, for what each reason does not say itself.
    """
    places: dict[str, list[str]] = {}
    for misfit in misfits:
        places.setdefault(misfit.why, []).append(misfit.place)
    named = list(places.items())[:MOST_REASONS]
    lines = [f"{where[0]}: {why}{_so_do(len(where) - 1)}" for why, where in named]
    left = len(misfits) - sum(len(where) for _, where in named)
    if left:
        lines.append(f"... and {left} more {'row' if left == 1 else 'rows'}")
    return UserError("\n".join([*lines, *filter(None, [cure])]))


def _so_do(number: int) -> str:
    return f" (so in {number} more {'row' if number == 1 else 'rows'})" if number else ""
