"""The overlap of the answered region with the marked one."""

from __future__ import annotations

import numpy as np
import pytest

from vlmbench.data.photos.regions import describe_region
from vlmbench.metrics.region_iou import ROWS, SQUARES, measure, named_squares
from vlmbench.stats import estimate
from vlmbench.types import Prediction, Rate, Task


def answered(number: int, text: str | None, truth: str, region: str = "marked") -> Prediction:
    return Prediction(
        id=f"r{number}",
        task=Task.JUDGE_PAIR,
        group=f"part-{number}",
        view="raw",
        expected="abnormal",
        predicted="abnormal",
        text=text,
        answer=f"abnormal: {truth}",
        meta={"region": region} if region else {},
    )


def test_the_overlap_is_a_mean_over_marked_defects() -> None:
    records = [
        answered(0, "abnormal: hole, upper left", "hole, upper left"),
        answered(1, "abnormal: hole, left and centre.", "hole, left"),
        answered(2, "abnormal: hole, right", "hole, left"),
        answered(3, "normal", "hole, left"),
        answered(4, "abnormal: left", "over most of it"),
        answered(5, "abnormal: left", "in several places"),
        answered(6, "abnormal: left", "left", region=""),
    ]
    found = measure(records)
    assert found["region_iou"] == pytest.approx((1 + 1 / 2 + 0 + 0 + 1 / 9) / 5)
    assert isinstance(found["region_named"], Rate)
    assert found["region_named"].hits == (True, True, True, False, True)

    estimated = estimate(measure, records, seed=0)["region_iou"]
    assert (estimated.n, estimated.n_parts) == (5, 5)
    assert estimated.low < estimated.value < estimated.high


def test_answers_by_log_probability_and_other_languages_have_no_figure() -> None:
    assert measure([answered(0, None, "hole, left")]) == {}
    assert measure([answered(0, "異常: 左", "左")]) == {}


def test_the_squares_have_the_names_of_the_masks_regions() -> None:
    for row in range(3):
        for column in range(3):
            mask = np.zeros((30, 30), np.bool_)
            mask[10 * row : 10 * row + 10, 10 * column : 10 * column + 10] = True
            assert named_squares(describe_region(mask)) == {ROWS[row][column]}
    assert named_squares(describe_region(np.ones((9, 9), np.bool_))) == SQUARES
