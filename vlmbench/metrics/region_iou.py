"""Whether a generated answer names the region in which the defect is marked."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import select_ordinary, share
from vlmbench.types import Prediction, Rate

FIGURES = (
    MetricInfo(
        name="region_iou",
        title="Region IoU",
        unit="index",
        better="higher",
        meaning="Mean overlap of the answered region with that of the mask or box, in squares of a "
        "3 x 3 grid: squares in both, divided by squares in either. An answer without a region "
        "counts 0.",
        order=85,
        long_title="overlap of the answered region with the marked one",
    ),
    MetricInfo(
        name="region_named",
        title="Region named",
        unit="share",
        better="higher",
        meaning="Share of the generated answers to marked defects that name a region.",
        order=86,
        on_card=False,
    ),
)

ROWS = (
    ("upper left", "upper", "upper right"),
    ("left", "centre", "right"),
    ("lower left", "lower", "lower right"),
)
SQUARES = frozenset(name for row in ROWS for name in row)
WHOLE = "over most of it"


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return both figures; {} without generated answers to records with a marked region.

    Records whose own answer names no region of the grid are left out, such as "in several places"
    or an answer in another language than English.
    """
    records = [
        each
        for each in select_ordinary(predictions)
        if each.meta.get("region") and each.text is not None and named_squares(each.answer)
    ]
    if not records:
        return {}

    overlaps = [_overlap(named_squares(each.text or ""), each.answer) for each in records]
    return {
        "region_iou": sum(overlaps) / len(overlaps),
        "region_named": share(records, lambda each: bool(named_squares(each.text or ""))),
    }


def named_squares(answer: str) -> frozenset[str]:
    """Return the squares that the end of an answer names: "abnormal: hole, left and centre".

    The result is empty if the end is anything else than a region.
    """
    region = answer.strip().rstrip(".").casefold()
    for separator in (":", ","):
        region = region.rpartition(separator)[2].strip()
    if region == WHOLE:
        return SQUARES

    names = frozenset(region.split(" and "))
    return names if names <= SQUARES else frozenset()


def _overlap(answered: frozenset[str], truth: str) -> float:
    expected = named_squares(truth)
    return len(answered & expected) / len(answered | expected)
