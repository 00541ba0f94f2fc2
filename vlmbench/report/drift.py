"""Scores of new records beside earlier ones, on the page of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from markupsafe import Markup

from vlmbench.stats.drift import MIN_PARTS, Drift


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreDrift:
    """Calibrated scores of one task and view: of the records judged now, and of those before.

    `positive` is the label that scores are for. `drift` is None if there are too few parts.
    `source` says in words which the earlier records are.
    """

    title: str
    positive: str
    now: tuple[float, ...]
    before: tuple[float, ...]
    drift: Drift | None
    source: str

    @property
    def has_drifted(self) -> bool:
        return self.drift is not None and self.drift.has_drifted

    @property
    def sentence(self) -> str:
        """Return what was found, without a full stop."""
        drift = self.drift
        if drift is None:
            return (
                f"{self.title}: there are too few parts to tell whether scores have drifted; "
                f"it takes {MIN_PARTS}"
            )

        counts = (
            f"{drift.n[0]} records of {drift.n_parts[0]} parts now, "
            f"{drift.n[1]} {self.source} of {drift.n_parts[1]} parts before"
        )
        chance = f"{counts}; p = {drift.p_value:.2f}"
        if drift.may_have_drifted:
            return f"{self.title}: scores may have drifted, and more parts would tell ({chance})"
        if not drift.has_drifted:
            return f"{self.title}: no drift of the scores is seen ({chance})"

        more = "higher" if drift.shift > 0 else "lower"
        return (
            f"{self.title}: scores for {self.positive} are {more} than before in "
            f"{abs(drift.shift):.0%} more of the records ({counts}; p = {drift.p_value:.3f}); a "
            "changed camera, light, product or share of defects does this"
        )


def drift_plot(drift: ScoreDrift, key: str) -> Markup:
    """Return the shares of records below each score, now and before, as an SVG.

    Without matplotlib it is "".
    """
    if find_spec("matplotlib") is None:
        return Markup("")

    from matplotlib.axes import Axes
    from matplotlib.ticker import PercentFormatter

    from vlmbench.report.plots.svg import COLOURS, TEXT, draw

    def paint(axes: Axes) -> None:
        for scores, colour, width in ((drift.before, TEXT, 1.2), (drift.now, COLOURS[0], 1.8)):
            axes.plot(*_steps(scores), color=colour, linewidth=width, drawstyle="steps-post")
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xticks((0, 0.5, 1))
        axes.set_yticks((0, 0.5, 1))
        axes.set_xlabel(f"score for {drift.positive}", color=TEXT)
        axes.set_ylabel("records below it", color=TEXT)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))

    return draw(paint, key=key, label=f"Scores, {drift.sentence}", size=(3.4, 2.4))


def _steps(scores: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return where the share of records below a score rises, and to what."""
    ordered = sorted(scores)
    shares = [number / len(ordered) for number in range(len(ordered) + 1)]
    return [0.0, *ordered, 1.0], [*shares, 1.0]
