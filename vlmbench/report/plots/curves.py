"""Learning curves: losses and held-out accuracy, over steps and over trained tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from vlmbench.report.plots.svg import COLOURS, TEXT, VARIABLES, draw
from vlmbench.report.runs import RunResult
from vlmbench.stats.clusters import Floats

DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "12 4")

# The running mean of the training loss covers 1/20 of the rows.
SMOOTHING = 20

# Longer lines are drawn by the means of as many equal intervals.
MOST_POINTS = 150

STEPS, TOKENS = "step", "num_tokens"
AXES = {STEPS: "step", TOKENS: "tokens trained on"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A legend entry: all seeds of a model, variant and setting."""

    label: str
    colour: str
    dashes: str

    @property
    def variable(self) -> str:
        """Return the CSS variable of the colour."""
        return VARIABLES[self.colour]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A titled plot."""

    title: str
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantity:
    key: str
    title: str
    share: bool = False
    smooth: bool = False


QUANTITIES = (
    _Quantity(
        key="loss",
        title="Training loss",
        smooth=True,
    ),
    _Quantity(key="eval_loss", title="Held-out loss"),
    _Quantity(
        key="eval_balanced_accuracy",
        title="Held-out balanced accuracy",
        share=True,
    ),
)
Curve = tuple[Floats, Floats]  # x, y


def line_styles(runs: Sequence[RunResult]) -> dict[str, Line]:
    """Return series -> line.

    Lines differ by data variant and by (model, setting). The one with more values sets the colour,
    the other one the dashes.
    """
    variants = list(dict.fromkeys(run.data for run in runs))
    others = list(dict.fromkeys((run.model, run.setting) for run in runs))
    finished = {run.series for run in runs if run.finished}

    lines = {}
    for run in runs:
        numbers = variants.index(run.data), others.index((run.model, run.setting))
        colour, dashes = numbers if len(variants) >= len(others) else numbers[::-1]
        lines[run.series] = Line(
            label=run.series if run.series in finished else f"{run.series} (unfinished)",
            colour=COLOURS[colour % len(COLOURS)],
            dashes=DASHES[dashes % len(DASHES)],
        )

    return lines


def legend(runs: Sequence[RunResult]) -> list[Line]:
    """Return the lines of the series that have a training log."""
    logged = {run.series for run in runs if run.log}
    return [line for series, line in line_styles(runs).items() if series in logged]


def panels(runs: Sequence[RunResult], over: str) -> list[Panel]:
    """Return a plot of all runs for each logged quantity, over STEPS or over TOKENS."""
    lines = line_styles(runs)
    drawn = []

    for quantity in QUANTITIES:
        curves = _curves_by_series(runs, over, quantity.key)
        ends = [float(x[-1]) for seeds in curves.values() for x, _ in seeds]
        last = max(ends, default=0.0)
        if last <= 0:
            continue

        paint = partial(
            _paint,
            quantity=quantity,
            curves=[(lines[series], seeds) for series, seeds in curves.items()],
            over=over,
            last=last,
        )
        svg = draw(
            paint,
            key=f"{over}-{quantity.key}",
            label=f"{quantity.title} by {AXES[over]}",
            size=(4.4, 2.9),
        )
        drawn.append(Panel(title=quantity.title, svg=svg))

    return drawn


def _curves_by_series(
    runs: Sequence[RunResult],
    over: str,
    key: str,
) -> dict[str, list[Curve]]:
    """Return series -> its curves, one for each run that logged `key`."""
    curves: dict[str, list[Curve]] = {}

    for run in runs:
        x, y = _points(run, over, key)
        if x.size:
            curves.setdefault(run.series, []).append((x, y))

    return curves


def _points(run: RunResult, over: str, key: str) -> Curve:
    """Return the logged values of `key` over steps or tokens.

    Evaluation rows lack the number of tokens, so they take it from the row before.
    """
    rows, x = [], None

    for row in run.log:
        x = row.get(over, x)
        if isinstance(row.get(key), int | float) and isinstance(x, int | float):
            rows.append((x, row[key]))

    xs, ys = np.array(rows, dtype=np.float64).reshape(-1, 2).T
    return xs, ys


def _paint(
    axes: Axes,
    *,
    quantity: _Quantity,
    curves: Iterable[tuple[Line, list[Curve]]],
    over: str,
    last: float,
) -> None:
    """Draw every series and set the axes; `last` is the largest x."""
    for line, seeds in curves:
        _plot_series(axes, quantity, line, seeds)

    axes.set_xlim(0, last * 1.02)
    axes.set_xlabel(AXES[over], color=TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5))

    if over == TOKENS:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    if quantity.share:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.axhline(
            0.5,
            color=TEXT,
            linewidth=0.8,
            linestyle=(0, (1, 2)),
        )
    else:
        axes.set_ylim(bottom=0)


def _plot_series(
    axes: Axes,
    quantity: _Quantity,
    line: Line,
    seeds: list[Curve],
) -> None:
    """Draw bold and thin lines for one series.

    Seeds that were logged at the same x are averaged: the mean is bold, each seed is thin.
    Otherwise each seed is bold. The values behind a running mean are thin.
    """
    bold = [(x, _running_mean(y) if quantity.smooth else y) for x, y in seeds]
    thin = seeds if quantity.smooth else []
    first_x = seeds[0][0]

    if len(seeds) > 1 and all(np.array_equal(x, first_x) for x, _ in seeds):
        mean = np.mean([y for _, y in bold], axis=0)
        bold, thin = [(first_x, mean)], bold

    for curve in thin:
        axes.plot(
            *_thin_out(*curve),
            color=line.colour,
            linewidth=0.6,
            alpha=0.35,
        )

    for curve in bold:
        # A line of a single point would be invisible.
        has_markers = len(curve[1]) == 1 or not quantity.smooth
        marker = "o" if has_markers else ""
        axes.plot(
            *_thin_out(*curve),
            marker=marker,
            markersize=3,
            **_bold_style(line),
        )


def _bold_style(line: Line) -> dict[str, Any]:
    dashes = tuple(float(length) for length in line.dashes.split())
    return {
        "color": line.colour,
        "linewidth": 1.7,
        "linestyle": (0, dashes) if dashes else "-",
    }


def _thin_out(x: Floats, y: Floats) -> Curve:
    """Return at most MOST_POINTS points, each the mean of an equal interval of the line."""
    if len(y) <= MOST_POINTS:
        return x, y

    starts = np.linspace(0, len(y), MOST_POINTS + 1).astype(int)[:-1]
    counts = np.diff(np.append(starts, len(y)))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _running_mean(values: Floats) -> Floats:
    """Return the mean of each value and those before it, over 1/SMOOTHING of the rows."""
    window = max(1, len(values) // SMOOTHING)
    sums = np.concatenate([[0.0], np.cumsum(values)])

    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    means: Floats = (sums[end] - sums[start]) / (end - start)
    return means
