"""Scales on which estimates and their intervals are drawn as dots and bars."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

STEP = 0.1
SMALLEST_REACH = 0.05


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from `low` to `high`, drawn from 0 to 100 % of the width."""

    low: float
    high: float

    def at(self, value: float) -> str:
        """Return the position of a value as a CSS percentage; values outside stop at the edge."""
        inside = min(max(value, self.low), self.high)
        share = (inside - self.low) / (self.high - self.low)
        return f"{100 * share:.2f}%"

    def width(self, length: float) -> str:
        """Return a length as a CSS percentage."""
        return f"{100 * length / (self.high - self.low):.2f}%"


def share_axis(values: Iterable[float | None]) -> Axis:
    """Return an axis up to 100 % that holds 50 % and every value, from a multiple of 10 %."""
    lowest = min([0.5, *(value for value in values if value is not None)])
    return Axis(max(0.0, math.floor(lowest / STEP - 0.5) * STEP), 1.0)


def difference_axis(values: Iterable[float]) -> Axis:
    """Return an axis that is symmetric about 0 and holds every finite value."""
    reach = max([SMALLEST_REACH, *(abs(value) for value in values if math.isfinite(value))]) * 1.05
    return Axis(-reach, reach)
