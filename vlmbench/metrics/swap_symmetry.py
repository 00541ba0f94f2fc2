"""Whether the order of the two images changes the answer."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import pair_with_base
from vlmbench.types import Prediction, Probe, Rate

FIGURES = (
    MetricInfo(
        name="swap_symmetry",
        title="Swap",
        unit="share",
        better="higher",
        meaning="Share of pairs that keep their label when the two images are swapped.",
        section="consistency",
        order=90,
        long_title="same label when swapped",
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `swap_symmetry`: the share of swapped pairs with the same label as the pair itself.

    This is the symmetry of PairBench (arXiv:2502.15210). An answer that names no label agrees with
    nothing, not even with another such answer.
    """
    pairs = pair_with_base(predictions, Probe.SWAP)
    if not pairs:
        return {}

    hits = tuple(
        probe.predicted is not None and probe.predicted == base.predicted for probe, base in pairs
    )
    parts = tuple(probe.cluster for probe, _ in pairs)
    return {"swap_symmetry": Rate(hits=hits, parts=parts)}
