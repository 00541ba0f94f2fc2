"""How often other words for the same question change the answer."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import flips, pair_with_base
from vlmbench.types import Prediction, Probe, Rate

LEADING = "leading"
FIGURES = (
    MetricInfo(
        name="flips_reworded",
        title="Flips, reworded",
        unit="share",
        better="lower",
        meaning="Share of the questions in other words whose answer differs from the pair's own.",
        section="consistency",
        order=160,
        long_title="other answer to the question in other words",
    ),
    MetricInfo(
        name="flips_leading",
        title="Flips, leading",
        unit="share",
        better="lower",
        meaning="Share of the pairs whose answer changes when the question suggests that the part "
        "is fine.",
        section="consistency",
        order=170,
        long_title="other answer to a leading question",
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `flips_reworded` over all neutral wordings, and `flips_leading`."""
    pairs = pair_with_base(predictions, Probe.REWORDED)
    leading = [pair for pair in pairs if pair[0].change == LEADING]
    neutral = [pair for pair in pairs if pair[0].change != LEADING]

    figures: dict[str, Rate | float] = {}
    if neutral:
        figures["flips_reworded"] = flips(neutral)
    if leading:
        figures["flips_leading"] = flips(leading)
    return figures
