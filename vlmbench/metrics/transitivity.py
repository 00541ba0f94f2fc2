"""Whether A = B and A = C lead the model to B = C."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import is_judged_negative, select_ordinary, share
from vlmbench.types import Prediction, Probe, Rate

FIGURES = (
    MetricInfo(
        name="transitivity",
        title="Transitivity",
        unit="share",
        better="higher",
        meaning="Share of pairs B with C that are judged the same, among those where A with B and "
        "A with C were.",
        section="consistency",
        order=110,
        on_card=False,
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `transitivity`: the share of closing pairs B~C that are judged the same.

    Only pairs whose premises A~B and A~C were both judged the same count. Nothing follows from
    other premises.
    """
    judged_same = {
        prediction.id
        for prediction in select_ordinary(predictions)
        if is_judged_negative(prediction)
    }
    closing = [
        prediction
        for prediction in predictions
        if prediction.probe is Probe.CLOSURE and judged_same.issuperset(prediction.of)
    ]

    return {"transitivity": share(closing, is_judged_negative)} if closing else {}
