"""Figures as text: a value in its unit, its interval, and the records that it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vlmbench.metrics import MetricInfo, describe
from vlmbench.system.text import counted

MISSING_FIGURE = "–"
UNKNOWN_INTERVAL = "interval unknown"


def percent(value: float) -> str:
    """Return a share in percent, such as "81.2 %"."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """Return a difference of shares with its sign, such as "+8.0 points"."""
    return f"{100 * value:+.1f} points".replace("-", "−")


def plain(value: float) -> str:
    """Return a number of unknown range with four significant digits."""
    return f"{value:.4g}".replace("-", "−")


def index(value: float) -> str:
    """Return a number from 0 to 1 that is not a share, such as "0.812"."""
    return f"{value:.3f}"


WRITERS: Mapping[str, Callable[[float], str]] = {
    "share": percent,
    "points": points,
    "index": index,
    "number": plain,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of one run; every number is None where the run has no such figure."""

    metric: MetricInfo
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_parts: int | None = None

    @property
    def text(self) -> str:
        """Return the value in its unit."""
        return MISSING_FIGURE if self.value is None else WRITERS[self.metric.unit](self.value)

    @property
    def interval(self) -> str:
        """Return the ends of the interval; "" where there is none."""
        if self.low is None or self.high is None:
            return ""

        return span(WRITERS[self.metric.unit], self.low, self.high)

    @property
    def count(self) -> str:
        """Return the numbers of records and parts, such as "n 60, 20 parts"."""
        if self.n is None:
            return ""

        if self.n_parts is None:
            return f"n {self.n:,}"
        return f"n {self.n:,}, {counted(self.n_parts, 'part')}"

    @property
    def sentence(self) -> str:
        """Return value, interval and counts on one line."""
        details = "; ".join(text for text in (self.interval, self.count) if text)
        return f"{self.text} ({details})" if details else self.text


def figure(name: str, estimate: Mapping[str, Any] | None) -> Figure:
    """Return the named figure from `estimate`, a row of metrics.json.

    The row has value, low, high, n and n_parts. None gives a figure without a value.
    """
    row = estimate or {}
    numbers = {key: row.get(key) for key in ("value", "low", "high", "n", "n_parts")}
    return Figure(metric=describe(name), **numbers)


def span(write: Callable[[float], str], low: float, high: float) -> str:
    """Return both ends of an interval, the unit once, such as "59.0 to 81.0 %".

    `vlmbench.stats` gives -1 to 1 where it can give no interval.
    """
    if low <= -1 and high >= 1:
        return UNKNOWN_INTERVAL

    first, last = write(low), write(high)
    _, space, unit = last.partition(" ")
    return f"{first.removesuffix(space + unit)} to {last}"


def interval_words(interval: str) -> str:
    """Return a `span` as a part of a sentence; "" for none."""
    return interval if interval in ("", UNKNOWN_INTERVAL) else f"95 % interval {interval}"


def list_names(names: Iterable[str]) -> str:
    """Return "a, b and c"; "" for none."""
    *others, last = list(names) or [""]
    return f"{', '.join(others)} and {last}" if others else last
