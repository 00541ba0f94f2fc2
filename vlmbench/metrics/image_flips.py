"""How often a small change of the query changes the answer."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import flips, pair_with_base
from vlmbench.types import Prediction, Probe, Rate

WORDS = {
    "blurred": "blurred",
    "darkened": "darker by a fifth",
    "shifted": "shifted by a fiftieth of its edge",
    "jpeg": "saved as JPEG",
    "rotated": "rotated by a degree",
}
FIGURES = tuple(
    MetricInfo(
        name=f"flips_{change}",
        title=f"Flips, {change}",
        unit="share",
        better="lower",
        meaning=f"Share of the pairs asked again whose answer changes when the query is {words}.",
        section="consistency",
        order=150,
        on_card=False,
    )
    for change, words in WORDS.items()
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `flips_<change>`: the share of pairs with another answer, for each change."""
    pairs = pair_with_base(predictions, Probe.PERTURBED)

    figures: dict[str, Rate | float] = {}
    for change in WORDS:
        of_change = [pair for pair in pairs if pair[0].change == change]
        if of_change:
            figures[f"flips_{change}"] = flips(of_change)
    return figures
