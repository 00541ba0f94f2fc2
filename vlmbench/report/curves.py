"""Learning curves as inline SVG whose colours are the page's own, so that they follow its light or dark scheme."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vlmbench.report.cells import Cell

# Told apart by most colour-blind readers (after Okabe and Ito); style.css has a lighter set for dark pages.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a8508a", "#8c6d00", "#4d4d4d")
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "12 4")
FRAME, TEXT = "#010203", "#040506"  # stand for the page's colours of lines and of quiet text
VARIABLES = {FRAME: "var(--rule)", TEXT: "var(--quiet)"} | {c: f"var(--series-{i})" for i, c in enumerate(COLOURS, 1)}
SMOOTHING = 20  # the bold line of the training loss is the mean of this share (1/20) of its rows


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


def legend(cells: Sequence[Cell]) -> dict[str, Line]:
    """Series -> its line: a colour of its own, and the dashes of its data variant."""
    variants = list(dict.fromkeys(cell.data for cell in cells))
    series = dict.fromkeys((cell.series, cell.data) for cell in cells if cell.log)
    finished = {cell.series for cell in cells if cell.finished}
    return {
        name: Line(
            label=name if name in finished else f"{name} (unfinished)",
            colour=COLOURS[i % len(COLOURS)],
            dashes=DASHES[variants.index(data) % len(DASHES)],
        )
        for i, (name, data) in enumerate(series)
    }


def panels(cells: Sequence[Cell]) -> list[Panel]:
    """One plot with every cell on it for each quantity that any training log has."""
    lines = legend(cells)
    last_step = max((row["step"] for cell in cells for row in cell.log), default=0)
    drawn = []
    for quantity in QUANTITIES:
        curves = [(lines[cell.series], *_points(cell, quantity.key)) for cell in cells if cell.log]
        if any(steps.size for _, steps, _ in curves):
            drawn.append(Panel(title=quantity.title, svg=_draw(quantity, curves, last_step)))
    return drawn


def _points(cell: Cell, key: str) -> tuple[np.ndarray, np.ndarray]:
    rows = [(row["step"], row[key]) for row in cell.log if isinstance(row.get(key), int | float)]
    steps, values = np.array(rows, dtype=float).reshape(-1, 2).T
    return steps, values


def _draw(quantity: _Quantity, curves: Iterable[tuple[Line, np.ndarray, np.ndarray]], last_step: float) -> Markup:
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": quantity.key, "font.size": 9}):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained", facecolor="none")
        axes = figure.subplots(subplot_kw={"facecolor": "none"})
        for line, steps, values in curves:
            _plot(axes, quantity, line, steps, values)
        _dress(axes, quantity, last_step)
        target = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(target, format="svg", metadata=nothing)
    return _inline(target.getvalue(), quantity)


def _plot(axes: Axes, quantity: _Quantity, line: Line, steps: np.ndarray, values: np.ndarray) -> None:
    dashes = tuple(float(part) for part in line.dashes.split())
    style: dict[str, Any] = {"color": line.colour, "linewidth": 1.7, "linestyle": (0, dashes) if dashes else "-"}
    if quantity.smooth:
        axes.plot(steps, values, color=line.colour, linewidth=0.6, alpha=0.35)
        axes.plot(steps, _running_mean(values), **style)
    else:
        axes.plot(steps, values, marker="o", markersize=3, **style)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of each value and those before it, over a window of 1/SMOOTHING of the rows."""
    window = max(1, len(values) // SMOOTHING)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    means: np.ndarray = (sums[end] - sums[start]) / (end - start)
    return means


def _dress(axes: Axes, quantity: _Quantity, last_step: float) -> None:
    axes.set_xlim(0, last_step * 1.02)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FRAME)
    axes.grid(axis="y", color=FRAME, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(color=FRAME, labelcolor=TEXT, length=0)
    axes.set_xlabel("step", color=TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if quantity.share:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.axhline(0.5, color=TEXT, linewidth=0.8, linestyle=(0, (1, 2)))
    else:
        axes.set_ylim(bottom=0)


def _inline(svg: str, quantity: _Quantity) -> Markup:
    """The svg element alone: the page's colours and font, no names of schemas, ids that no other plot has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{quantity.key}-", svg)
    svg = re.sub(r"font: [^;\"]*;?|font-(size|family): [^;\"]*;", "", svg)
    svg = re.sub(
        r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{quantity.title}">', svg
    )
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return Markup(svg)  # noqa: S704 - holds numbers, and words of this module alone
