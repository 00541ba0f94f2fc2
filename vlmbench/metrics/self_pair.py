"""Whether a picture beside itself is seen to be the same."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics._select import says_negative, share
from vlmbench.types import Prediction, Probe, Rate


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """`self_pair`: the share of references, each beside itself, that are judged normal (or the same)."""
    probes = [prediction for prediction in predictions if prediction.probe is Probe.SELF]
    return {"self_pair": share(probes, says_negative)} if probes else {}
