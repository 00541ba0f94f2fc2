"""Several records of one part joined to one answer, on the model's own margins.

The highest of several margins is high more often than a single one is. A calibration, a threshold
and a promise hold only for answers that are joined as the records they rest on.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from vlmbench.stats.calibrate import scored_records
from vlmbench.types import LABELS, Prediction

# More than half of the records lie above a threshold exactly where their median does, so that
# `median` is the majority vote for an odd number of records, at every threshold.
JOINS: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType(
    {"max": max, "mean": statistics.fmean, "median": statistics.median}
)

# The number of records (references) of each photo of a part, the largest first.
Shape = tuple[int, ...]


def shape_of(photos: Sequence[Hashable]) -> Shape:
    """Return the shape of records; `photos` names the photo of each."""
    return tuple(sorted(Counter(photos).values(), reverse=True))


def join_predictions(members: Sequence[Prediction], how: str) -> Prediction:
    """Return one prediction for records of a part; its margin joins theirs.

    The part is positive if one record is, and its label is unknown if that of one record is.
    Raise ValueError for a record without a margin.
    """
    margins = [member.margin for member in members if member.margin is not None]
    if len(margins) < len(members):
        raise ValueError("records without scores cannot be joined")

    first, margin = members[0], JOINS[how](margins)
    negative, positive = LABELS[first.task]
    expected = {member.expected for member in members}
    label = "" if "" in expected else positive if positive in expected else negative

    scores = {negative: -float(np.logaddexp(0, margin)), positive: -float(np.logaddexp(0, -margin))}
    return replace(
        first,
        expected=label,
        predicted=positive if margin > 0 else negative,
        scores=scores,
        text=None,
    )


def join_tiles(members: Sequence[Prediction]) -> tuple[Prediction, int]:
    """Return one prediction for the tiles of a record, and the position of the deciding tile.

    The most suspicious tile decides. Generated answers have no margin: the first positive one
    decides, or else the first one that names no label.
    """
    margins = [member.margin for member in members if member.margin is not None]
    if len(margins) == len(members):
        chosen = deciding(margins, "max")
        return replace(join_predictions(members, "max"), text=members[chosen].text), chosen

    _, positive = LABELS[members[0].task]
    labels = [member.predicted for member in members]
    chosen = next((labels.index(label) for label in (positive, None) if label in labels), 0)
    return members[chosen], chosen


def deciding(margins: Sequence[float], how: str) -> int:
    """Return the position of the margin that decides.

    It is the highest; for `median` the one that is nearest to the median.
    """
    if how == "median":
        return int(np.argmin(np.abs(np.asarray(margins) - statistics.median(margins))))
    return int(np.argmax(margins))


def join_records(predictions: Sequence[Prediction], shape: Shape, how: str) -> list[Prediction]:
    """Return the records of each part, joined in the numbers that `shape` gives.

    Records of one part and label are joined, and each record at most once. A part with many records
    gives several answers, which still count as one part. Records that are left over are left out.
    """
    parts: dict[tuple[str, str], dict[Hashable, list[Prediction]]] = {}
    for record in scored_records(predictions):
        photos = parts.setdefault((record.group, record.expected), {})
        photo = record.images[-1] if record.images else record.id
        photos.setdefault(photo, []).append(record)

    joined: list[Prediction] = []
    for photos in parts.values():
        while members := _take(photos, shape):
            joined.append(join_predictions(members, how))
    return joined


def _take(photos: Mapping[Hashable, list[Prediction]], shape: Shape) -> list[Prediction]:
    """Remove records of this shape from `photos`; return them, or [] if there are too few."""
    by_size = sorted(photos.values(), key=len, reverse=True)
    fits = len(by_size) >= len(shape) and all(
        len(records) >= count for records, count in zip(by_size, shape, strict=False)
    )
    if not fits:
        return []

    members: list[Prediction] = []
    for records, count in zip(by_size, shape, strict=False):
        members += records[:count]
        del records[:count]
    return members
