"""Whether the right answer survives small changes of the query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import pair_with_base
from vlmbench.types import Prediction, Probe, Rate

FIGURES = (
    MetricInfo(
        name="robust_accuracy",
        title="Robust accuracy",
        unit="share",
        better="higher",
        meaning="Share of the pairs asked again that are judged correctly as they are and under "
        "every change of the query: blur, less light, a shift, JPEG, a rotation by a degree.",
        section="consistency",
        order=140,
        long_title="right under every small change of the query",
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `robust_accuracy`: right on a record and under all of its changes."""
    right: dict[str, bool] = defaultdict(lambda: True)
    parts: dict[str, str] = {}
    for probe, base in pair_with_base(predictions, Probe.PERTURBED):
        right[base.id] &= base.correct and probe.correct
        parts[base.id] = base.group

    if not parts:
        return {}
    hits = tuple(right[name] for name in parts)
    return {"robust_accuracy": Rate(hits=hits, parts=tuple(parts.values()))}
