"""Whether the model compares the query with its own reference."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import flips, pair_with_base, share
from vlmbench.types import Difference, Prediction, Probe, Rate

FIGURES = (
    MetricInfo(
        name="other_reference_accuracy",
        title="Other reference",
        unit="share",
        meaning="Accuracy with the reference of another part. The true label stays that of the "
        "query.",
        section="consistency",
        order=115,
        on_card=False,
    ),
    MetricInfo(
        name="reference_gain",
        title="Reference gain",
        unit="points",
        better="higher",
        meaning="Accuracy that a part's own reference adds to that of another part. Around 0, any "
        "good part serves as the reference, or the model judges from the query alone.",
        section="consistency",
        order=120,
        long_title="what the own reference adds to accuracy",
    ),
    MetricInfo(
        name="reference_flips",
        title="Reference flips",
        unit="share",
        meaning="Share of answers that change with the reference of another part. At 0, the "
        "reference does not matter.",
        section="consistency",
        order=130,
        on_card=False,
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `other_reference_accuracy`, `reference_gain` and `reference_flips`.

    The gain is the accuracy with a part's own reference minus that with another part's, on the same
    queries.
    """
    pairs = pair_with_base(predictions, Probe.OTHER)
    if not pairs:
        return {}

    gain = sum(base.correct - probe.correct for probe, base in pairs) / len(pairs)
    accuracy = share([probe for probe, _ in pairs], lambda prediction: prediction.correct)
    return {
        "other_reference_accuracy": accuracy,
        "reference_gain": Difference(gain),
        "reference_flips": flips(pairs),
    }
