"""Whether A = B and A = C lead to B = C."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics._select import ordinary, says_negative, share
from vlmbench.types import Prediction, Probe, Rate


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """`transitivity`: of the closing pairs B~C whose premises A~B and A~C were both judged the same, the share that is
    judged the same too. The others are not counted: nothing follows from their premises."""
    agreed = {prediction.id for prediction in ordinary(predictions) if says_negative(prediction)}
    closing = [p for p in predictions if p.probe is Probe.CLOSURE and agreed.issuperset(p.of)]
    return {"transitivity": share(closing, says_negative)} if closing else {}
