"""How the model judges without any reference."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import pair_with_base, share
from vlmbench.types import Prediction, Probe, Rate

FIGURES = (
    MetricInfo(
        name="blank_reference_accuracy",
        title="Blank reference",
        unit="share",
        meaning="Accuracy with a grey image as the reference. No such image trained the model, so "
        "this is no measure of what the reference adds.",
        section="consistency",
        order=135,
        on_card=False,
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `blank_reference_accuracy`: the accuracy with a grey image as the reference."""
    pairs = pair_with_base(predictions, Probe.BLANK)
    if not pairs:
        return {}
    return {
        "blank_reference_accuracy": share(
            [probe for probe, _ in pairs], lambda prediction: prediction.correct
        )
    }
