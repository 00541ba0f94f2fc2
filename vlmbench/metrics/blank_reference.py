"""Whether the model looks at the reference at all."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import pair_with_base, share
from vlmbench.types import Difference, Prediction, Probe, Rate

FIGURES = (
    MetricInfo(
        name="blank_reference_accuracy",
        title="Blank reference",
        unit="share",
        meaning="Accuracy with a grey image as the reference: what the model does without "
        "comparing.",
        section="consistency",
        order=120,
        on_card=False,
    ),
    MetricInfo(
        name="reference_gain",
        title="Reference gain",
        unit="points",
        better="higher",
        meaning="Accuracy that the reference adds. Around 0, the model does not compare the two "
        "images.",
        section="consistency",
        order=130,
        long_title="what the reference adds to accuracy",
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `blank_reference_accuracy` and `reference_gain`.

    The first is the accuracy with a grey image as the reference. The second is what the real
    reference adds to it on the same records. Near 0, the model judges from the query alone.
    """
    pairs = pair_with_base(predictions, Probe.BLANK)
    if not pairs:
        return {}

    gain = sum(base.correct - probe.correct for probe, base in pairs) / len(pairs)
    accuracy = share([probe for probe, _ in pairs], lambda prediction: prediction.correct)
    return {"blank_reference_accuracy": accuracy, "reference_gain": Difference(gain)}
