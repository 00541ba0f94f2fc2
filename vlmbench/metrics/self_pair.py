"""Whether the model sees that an image is the same as itself."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import is_judged_negative, share
from vlmbench.types import Prediction, Probe, Rate

FIGURES = (
    MetricInfo(
        name="self_pair",
        title="Self pair",
        unit="share",
        better="higher",
        meaning="Share of references, each beside itself, that are judged normal (or the same).",
        section="consistency",
        order=100,
        on_card=False,
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `self_pair`: the share of references that are judged normal beside themselves."""
    probes = [prediction for prediction in predictions if prediction.probe is Probe.SELF]
    return {"self_pair": share(probes, is_judged_negative)} if probes else {}
