"""The two kinds of error, which cost an inspector differently.

An answer that names no label is an error of both kinds. It passes an abnormal part and rejects a
normal one.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import select_ordinary, share
from vlmbench.types import LABELS, Prediction, Rate

FIGURES = (
    MetricInfo(
        name="miss_rate",
        title="Misses",
        unit="share",
        better="lower",
        meaning="Share of abnormal (or different) records not judged so: defects that reach the "
        "customer.",
        section="headline",
        order=40,
        long_title="miss rate",
        of_decisions=True,
    ),
    MetricInfo(
        name="overkill_rate",
        title="Overkill",
        unit="share",
        better="lower",
        meaning="Share of normal (or same) records not judged so: good parts that are scrapped.",
        section="headline",
        order=50,
        long_title="overkill rate",
        of_decisions=True,
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `miss_rate` and `overkill_rate`; each is absent where its class is.

    `miss_rate` is the share of truly positive records (abnormal, different) not judged positive.
    `overkill_rate` is the share of truly negative ones (normal, same) not judged negative.
    """
    records = [record for record in select_ordinary(predictions) if record.task in LABELS]

    figures: dict[str, Rate | float] = {}
    for name, index in (("miss_rate", 1), ("overkill_rate", 0)):
        members = [record for record in records if record.expected == LABELS[record.task][index]]
        if members:
            figures[name] = share(members, lambda prediction: not prediction.correct)

    return figures
