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

from vlmbench.report.cells import Cell
from vlmbench.report.plots.svg import COLOURS, TEXT, VARIABLES, draw
from vlmbench.stats.clusters import Floats

DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "12 4")
SMOOTHING = 20  # the bold line of the training loss is the mean of this share (1/20) of its rows
MOST_POINTS = 150  # of one line: rows of longer logs are averaged in as many equal parts
STEPS, TOKENS = "step", "num_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One entry of the legend: all seeds of a model, variant and setting."""

    label: str
    colour: str
    dashes: str

    @property
    def variable(self) -> str:
        return VARIABLES[self.colour]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    title: str
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantity:
    key: str
    title: str
    share: bool = False
    smooth: bool = False


QUANTITIES = (
    _Quantity(key="loss", title="Training loss", smooth=True),
    _Quantity(key="eval_loss", title="Held-out loss"),
    _Quantity(key="eval_balanced_accuracy", title="Held-out balanced accuracy", share=True),
)
Curve = tuple[Floats, Floats]  # places, values
AXES = {STEPS: "step", TOKENS: "tokens trained on"}


def styles(cells: Sequence[Cell]) -> dict[str, Line]:
    """Series -> its line. Of data variants and the rest (model, setting), what has more values tells the colour, the
    other the dashes."""
    variants = list(dict.fromkeys(cell.data for cell in cells))
    others = list(dict.fromkeys((cell.model, cell.setting) for cell in cells))
    finished = {cell.series for cell in cells if cell.finished}
    lines = {}
    for cell in cells:
        numbers = variants.index(cell.data), others.index((cell.model, cell.setting))
        colour, dashes = numbers if len(variants) >= len(others) else numbers[::-1]
        lines[cell.series] = Line(
            label=cell.series if cell.series in finished else f"{cell.series} (unfinished)",
            colour=COLOURS[colour % len(COLOURS)],
            dashes=DASHES[dashes % len(DASHES)],
        )
    return lines


def legend(cells: Sequence[Cell]) -> list[Line]:
    """The lines of the series that have a training log."""
    logged = {cell.series for cell in cells if cell.log}
    return [line for series, line in styles(cells).items() if series in logged]


def panels(cells: Sequence[Cell], over: str) -> list[Panel]:
    """One plot with every cell on it for each quantity that any training log has, over STEPS or over TOKENS."""
    lines = styles(cells)
    drawn = []
    for quantity in QUANTITIES:
        curves: dict[str, list[Curve]] = {}
        for cell in cells:
            places, values = _points(cell, over, quantity.key)
            if places.size:
                curves.setdefault(cell.series, []).append((places, values))
        last = max((float(places[-1]) for own in curves.values() for places, _ in own), default=0.0)
        if last > 0:
            of_lines = [(lines[series], own) for series, own in curves.items()]
            paint = partial(_paint, quantity=quantity, curves=of_lines, over=over, last=last)
            svg = draw(paint, key=f"{over}-{quantity.key}", label=f"{quantity.title} by {AXES[over]}", size=(4.4, 2.9))
            drawn.append(Panel(title=quantity.title, svg=svg))
    return drawn


def _points(cell: Cell, over: str, key: str) -> Curve:
    """Where and how much. Rows of an evaluation do not say how many tokens there were: those of the row before."""
    rows, place = [], None
    for row in cell.log:
        place = row.get(over, place)
        if isinstance(row.get(key), int | float) and isinstance(place, int | float):
            rows.append((place, row[key]))
    places, values = np.array(rows, dtype=np.float64).reshape(-1, 2).T
    return places, values


def _paint(
    axes: Axes, *, quantity: _Quantity, curves: Iterable[tuple[Line, list[Curve]]], over: str, last: float
) -> None:
    for line, seeds in curves:
        _plot(axes, quantity, line, seeds)
    axes.set_xlim(0, last * 1.02)
    axes.set_xlabel(AXES[over], color=TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if over == TOKENS:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if quantity.share:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.axhline(0.5, color=TEXT, linewidth=0.8, linestyle=(0, (1, 2)))
    else:
        axes.set_ylim(bottom=0)


def _plot(axes: Axes, quantity: _Quantity, line: Line, seeds: list[Curve]) -> None:
    """Bold: the mean of the seeds, where all were logged at the same places, else each. Thin: each seed, or what a
    running mean was made from."""
    dashes = tuple(float(part) for part in line.dashes.split())
    style: dict[str, Any] = {"color": line.colour, "linewidth": 1.7, "linestyle": (0, dashes) if dashes else "-"}
    bold = [(places, _running_mean(values) if quantity.smooth else values) for places, values in seeds]
    thin = seeds if quantity.smooth else []
    if len(seeds) > 1 and all(np.array_equal(places, seeds[0][0]) for places, _ in seeds):
        bold, thin = [(seeds[0][0], np.mean([values for _, values in bold], axis=0))], bold
    for curve in thin:
        axes.plot(*_thinned(*curve), color=line.colour, linewidth=0.6, alpha=0.35)
    for curve in bold:
        alone = len(curve[1]) == 1  # a line of one point is not seen
        axes.plot(*_thinned(*curve), marker="o" if alone or not quantity.smooth else "", markersize=3, **style)


def _thinned(places: Floats, values: Floats) -> Curve:
    """At most MOST_POINTS points, each the mean of its part of the line."""
    if len(values) <= MOST_POINTS:
        return places, values
    edges = np.linspace(0, len(values), MOST_POINTS + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(values)))
    return np.add.reduceat(places, edges) / counts, np.add.reduceat(values, edges) / counts


def _running_mean(values: Floats) -> Floats:
    """Mean of each value and those before it, over a window of 1/SMOOTHING of the rows."""
    window = max(1, len(values) // SMOOTHING)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    means: Floats = (sums[end] - sums[start]) / (end - start)
    return means
