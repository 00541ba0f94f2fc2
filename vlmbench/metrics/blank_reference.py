"""Whether the model looks at the reference at all."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics._select import share, with_base
from vlmbench.types import Difference, Prediction, Probe, Rate


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """`blank_reference_accuracy`: accuracy with a grey picture as the reference; `reference_gain`: what the real
    reference adds to it on the same records. Near 0, the judgement comes from the query alone."""
    pairs = with_base(predictions, Probe.BLANK)
    if not pairs:
        return {}
    gain = sum(base.correct - probe.correct for probe, base in pairs) / len(pairs)
    accuracy = share([probe for probe, _ in pairs], lambda prediction: prediction.correct)
    return {"blank_reference_accuracy": accuracy, "reference_gain": Difference(gain)}
