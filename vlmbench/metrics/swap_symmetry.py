"""Whether the order of the two pictures matters where it should not."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics._select import with_base
from vlmbench.types import Prediction, Probe, Rate


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """`swap_symmetry`: the share of swapped pairs that get the same label as the pair itself (the symmetry of
    PairBench, arXiv:2502.15210). An unparsable answer agrees with nothing, not even with another."""
    pairs = with_base(predictions, Probe.SWAP)
    if not pairs:
        return {}
    hits = tuple(probe.predicted is not None and probe.predicted == base.predicted for probe, base in pairs)
    return {"swap_symmetry": Rate(hits=hits, groups=tuple(probe.group for probe, _ in pairs))}
