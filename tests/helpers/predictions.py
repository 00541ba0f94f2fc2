"""Predictions with given scores."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.types import Prediction, Task


def answers(
    margins: Sequence[float], positive: Sequence[bool], *, part_size: int = 1
) -> list[Prediction]:
    """Return a record of judge_pair for each margin; `part_size` neighbours share a part."""
    return [
        Prediction(
            id=f"r{i}",
            task=Task.JUDGE_PAIR,
            group=f"part-{i // part_size}",
            view="raw",
            expected="abnormal" if is_positive else "normal",
            predicted="abnormal" if margin > 0 else "normal",
            scores={"normal": 0.0, "abnormal": margin},
        )
        for i, (margin, is_positive) in enumerate(zip(margins, positive, strict=True))
    ]
