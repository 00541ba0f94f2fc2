"""ROC curves and reliability diagrams for every series, task and view.

ROC: the curve with its band, and the curve of the baseline. Reliability: the accuracy by the
model's confidence; the area of a dot is its share of the records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from vlmbench.report.plots.curves import Line
from vlmbench.report.plots.svg import TEXT, draw
from vlmbench.report.scores import ReliabilityBin, SeriesScores, TaskViewScores
from vlmbench.stats import GRID

SIZE = (2.5, 2.5)  # inches
DOTTED = (0, (1, 2))
LARGEST_DOT = 60.0  # points^2, for a bin that holds all records


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePlots:
    """The plots of one series on one task and view; `roc` is "" if one label has no record."""

    roc: Markup
    reliability: Markup


def score_plots(
    scores: Sequence[TaskViewScores], lines: Mapping[str, Line]
) -> dict[tuple[str, str], ScorePlots]:
    """Return (series, task and view) -> plots, for the series whose answers have scores."""
    plots = {}

    for task_number, task_view in enumerate(scores):
        for number, member in enumerate(task_view.members):
            if not member.scored:
                continue

            line = lines[member.series.runs[0].series]
            key = f"{task_number}-{number}"
            plots[member.series.name, task_view.title] = _draw_plots(task_view, member, line, key)

    return plots


def _draw_plots(
    task_view: TaskViewScores, scores: SeriesScores, line: Line, key: str
) -> ScorePlots:
    """Draw both plots; `key` tells them apart from the other plots on the page."""
    subject = f"{scores.series.name} on {task_view.title}"
    aurocs = ", ".join(figure.text for figure in scores.auroc)
    bins = "; ".join(_bin_words(each) for each in scores.bins)

    roc = Markup("")
    if scores.roc is not None:
        baseline = task_view.baseline_of(scores)
        roc = draw(
            partial(
                _paint_roc,
                scores=scores,
                baseline=baseline,
                line=line,
            ),
            key=f"roc-{key}",
            label=f"ROC of {subject}, AUROC {aurocs}",
            size=SIZE,
        )

    reliability = draw(
        partial(_paint_bins, scores=scores, line=line),
        key=f"bins-{key}",
        label=f"Calibration of {subject}: {bins}",
        size=SIZE,
    )
    return ScorePlots(roc=roc, reliability=reliability)


def _bin_words(each: ReliabilityBin) -> str:
    return f"{100 * each.confidence:.0f} % confidence: {each.sentence} right"


def _paint_roc(
    axes: Axes, *, scores: SeriesScores, baseline: SeriesScores | None, line: Line
) -> None:
    axes.plot(
        (0, 1),
        (0, 1),
        color=TEXT,
        linewidth=0.8,
        linestyle=DOTTED,
    )

    if baseline is not None and baseline.roc is not None:
        axes.plot(GRID, baseline.roc.rate, color=TEXT, linewidth=1.0)

    if scores.roc is not None:
        low, high = scores.roc.low, scores.roc.high
        axes.fill_between(
            GRID,
            low,
            high,
            color=line.colour,
            alpha=0.2,
            linewidth=0,
        )
        axes.plot(GRID, scores.roc.rate, color=line.colour, linewidth=1.7)

    _set_square(axes, 0.0, "overkill (FPR)", "found (TPR)")
    axes.set_yticks((0, 0.5, 1))


def _paint_bins(axes: Axes, *, scores: SeriesScores, line: Line) -> None:
    axes.plot(
        (0, 1),
        (0, 1),
        color=TEXT,
        linewidth=0.8,
        linestyle=DOTTED,
    )
    total = sum(each.right.n for each in scores.bins)

    for each in scores.bins:
        _paint_bin(axes, each, total, line)

    _set_square(axes, 0.5, "confidence", "right")
    axes.set_xlim(0.48, 1.02)
    axes.set_ylim(-0.16, 1.02)
    axes.set_yticks((0, 0.5, 1))


def _paint_bin(axes: Axes, each: ReliabilityBin, total: int, line: Line) -> None:
    """Draw one dot with its interval, and the number of its records at the bottom."""
    x, right = each.confidence, each.right
    area = 8 + LARGEST_DOT * right.n / total

    axes.vlines(
        x,
        right.low,
        right.high,
        color=line.colour,
        linewidth=1.4,
        alpha=0.6,
    )
    axes.scatter(
        x,
        right.value,
        s=area,
        color=line.colour,
        clip_on=False,
    )
    axes.text(
        max(each.middle, 0.5), -0.05, f"{right.n}", color=TEXT, ha="center", va="top", fontsize=8
    )


def _set_square(axes: Axes, low: float, x_label: str, y_label: str) -> None:
    """Set percent axes with x from `low` to 1 and y from 0 to 1."""
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xticks((low, (low + 1) / 2, 1))
    axes.set_xlabel(x_label, color=TEXT)
    axes.set_ylabel(y_label, color=TEXT)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
