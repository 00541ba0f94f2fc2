"""The two ways to be wrong, which cost an inspector differently.

An unparsable answer is an error on both sides: it lets an abnormal part through and stops a normal one.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics._select import ordinary, share
from vlmbench.types import LABELS, Prediction, Rate


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """`miss_rate`: the share of truly positive records (abnormal, different) not judged positive; `overkill_rate`:
    the share of truly negative ones (normal, same) not judged negative. Each is absent where its class is."""
    figures: dict[str, Rate | float] = {}
    records = [record for record in ordinary(predictions) if record.task in LABELS]
    for name, side in (("miss_rate", 1), ("overkill_rate", 0)):
        members = [record for record in records if record.expected == LABELS[record.task][side]]
        if members:
            figures[name] = share(members, lambda prediction: not prediction.correct)
    return figures
