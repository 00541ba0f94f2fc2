"""ROC curves and reliability diagrams, one of each for every series, task and view.

ROC: the curve, its band, and the baseline's curve beneath. Reliability: how often the model is right by how sure it is;
the area of a dot is its share of the records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from vlmbench.report.judgement import Judged, Place
from vlmbench.report.plots.curves import Line
from vlmbench.report.plots.svg import TEXT, draw
from vlmbench.stats import GRID

SIZE = (2.5, 2.5)
DOTTED = (0, (1, 2))
LARGEST_DOT = 60.0  # points^2, of a bin that holds all records


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The plots of one series on one task and view; `roc` is "" where one label has no record."""

    roc: Markup
    reliability: Markup


def plots(places: Sequence[Place], styles: Mapping[str, Line]) -> dict[tuple[str, str], Drawn]:
    """By the names of the series and of the task and view; of those whose answers were scored."""
    return {
        (one.series.name, place.title): _drawn(place, one, styles[one.series.cells[0].series], f"{p}-{i}")
        for p, place in enumerate(places)
        for i, one in enumerate(place.judged)
        if one.scored
    }


def _drawn(place: Place, one: Judged, line: Line, key: str) -> Drawn:
    aurocs = ", ".join(figure.text for figure in one.auroc)
    bins = "; ".join(f"{100 * b.confidence:.0f} % sure: {b.sentence} right" for b in one.bins)
    where = f"{one.series.name} on {place.title}"
    roc = Markup("")
    if one.roc is not None:
        paint = partial(_paint_roc, one=one, base=place.baseline_of(one), line=line)
        roc = draw(paint, key=f"roc-{key}", label=f"ROC of {where}, AUROC {aurocs}", size=SIZE)
    dots = draw(
        partial(_paint_bins, one=one, line=line), key=f"bins-{key}", label=f"Calibration of {where}: {bins}", size=SIZE
    )
    return Drawn(roc=roc, reliability=dots)


def _paint_roc(axes: Axes, *, one: Judged, base: Judged | None, line: Line) -> None:
    axes.plot((0, 1), (0, 1), color=TEXT, linewidth=0.8, linestyle=DOTTED)
    if base is not None and base.roc is not None:
        axes.plot(GRID, base.roc.rate, color=TEXT, linewidth=1.0)
    if one.roc is not None:
        axes.fill_between(GRID, one.roc.low, one.roc.high, color=line.colour, alpha=0.2, linewidth=0)
        axes.plot(GRID, one.roc.rate, color=line.colour, linewidth=1.7)
    _square(axes, 0.0, "overkill", "found")
    axes.set_yticks((0, 0.5, 1))


def _paint_bins(axes: Axes, *, one: Judged, line: Line) -> None:
    axes.plot((0, 1), (0, 1), color=TEXT, linewidth=0.8, linestyle=DOTTED)
    total = sum(b.right.n for b in one.bins)
    for b in one.bins:
        area = 8 + LARGEST_DOT * b.right.n / total
        axes.vlines(b.confidence, b.right.low, b.right.high, color=line.colour, linewidth=1.4, alpha=0.6)
        axes.scatter(b.confidence, b.right.value, s=area, color=line.colour, clip_on=False)
        axes.text(max(b.middle, 0.5), -0.05, f"{b.right.n}", color=TEXT, ha="center", va="top", fontsize=8)
    _square(axes, 0.5, "sure", "right")
    axes.set_xlim(0.48, 1.02)
    axes.set_ylim(-0.16, 1.02)
    axes.set_yticks((0, 0.5, 1))


def _square(axes: Axes, low: float, across: str, up: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xticks((low, (low + 1) / 2, 1))
    axes.set_xlabel(across, color=TEXT)
    axes.set_ylabel(up, color=TEXT)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
