"""Confusion and reliability, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.report.conftest import CellMaker, make_log
from vlmbench.report.cells import read_cells
from vlmbench.report.judgement import NO_LABEL, confusion, places, reliability
from vlmbench.report.plots.curves import MOST_POINTS, STEPS, TOKENS, _points, _thinned, styles
from vlmbench.rundir import SweepDir
from vlmbench.types import LABELS, Prediction, Task


def answer(
    number: int, expected: str, predicted: str | None, sure: float | None = None, task: Task = Task.JUDGE_PAIR
) -> Prediction:
    scores = {}
    if sure is not None and predicted is not None:
        other = next(label for label in LABELS[task] if label != predicted)
        scores = {predicted: math.log(sure), other: math.log(1 - sure)}
    return Prediction(
        id=f"r{number}",
        task=task,
        group=f"g{number}",
        view="raw",
        expected=expected,
        predicted=predicted,
        scores=scores,
    )


def test_every_answer_is_counted_under_its_true_label() -> None:
    said = ["normal", "normal", "normal", "abnormal", "abnormal", "normal"]
    true = ["normal"] * 4 + ["abnormal"] * 2
    found = confusion([answer(i, t, s) for i, (t, s) in enumerate(zip(true, said, strict=True))])
    assert found.columns == ("normal", "abnormal")
    assert [(name, n, [one.count for one in row]) for name, n, row in found.rows] == [
        ("normal", 4, [3, 1]),
        ("abnormal", 2, [1, 1]),
    ]
    assert [one.share.text for one in found.rows[0][2]] == ["75.0 %", "25.0 %"]
    assert [one.right for one in found.rows[0][2]] == [True, False]


def test_answers_that_name_no_label_have_a_column_of_their_own() -> None:
    found = confusion([answer(0, "normal", None), answer(1, "abnormal", "abnormal")])
    assert found.columns == ("normal", "abnormal", NO_LABEL)
    assert [[one.count for one in row] for _, _, row in found.rows] == [[0, 0, 1], [0, 1, 0]]


def test_bins_hold_the_records_that_are_about_as_sure() -> None:
    rows = [(0.55, True), (0.58, False), (0.6, True), (0.61, True), (0.95, True), (0.97, False)]
    answers = [answer(i, "normal", "normal" if right else "abnormal", sure) for i, (sure, right) in enumerate(rows)]
    found = reliability(answers)
    assert [one.middle for one in found] == pytest.approx([0.55, 0.65, 0.95])
    assert [one.confidence for one in found] == pytest.approx([(0.55 + 0.58 + 0.6) / 3, 0.61, 0.96])
    assert [one.right.value for one in found] == pytest.approx([2 / 3, 1.0, 0.5])
    assert [one.right.n for one in found] == [3, 1, 2]
    # the calibration error of these records is the bins' gaps by their shares
    gaps = [one.right.n / 6 * abs(one.right.value - one.confidence) for one in found]
    assert sum(gaps) == pytest.approx((0.27 + 0.39 + 0.92) / 6)


def test_labels_that_the_task_does_not_have_are_left_to_the_other_figures(make_cell: CellMaker) -> None:
    strange = [answer(0, "B", "A"), answer(1, "A", "A")]
    cell = make_cell(0, "without_comparison", predictions=strange)
    assert places(read_cells(SweepDir(cell.path.parent))) == []


def test_the_baseline_of_a_series_is_of_its_own_model(make_cell: CellMaker) -> None:
    predictions = [answer(0, "normal", "normal", 0.8), answer(1, "abnormal", "abnormal", 0.7)]
    for number, (model, data) in enumerate(
        [("small", "without_comparison"), ("large", "with_comparison"), ("small", "with_comparison")]
    ):
        details = {"model": model, "overrides": []}
        cell = make_cell(number, data, predictions=predictions, details=details)
    (place,) = places(read_cells(SweepDir(cell.path.parent)))
    baselines = [place.baseline_of(one) for one in place.judged]
    assert [one and one.series.name for one in baselines] == [None, None, "small · without_comparison"]


def test_no_two_of_many_series_are_drawn_alike(make_cell: CellMaker) -> None:
    number = 0
    for model in ("small", "large"):
        for data in ("without_comparison", "with_views", "with_shapes", "with_comparison", "matched_control", "single"):
            cell = make_cell(number, data, details={"model": model, "overrides": []}, log=make_log(10, 0.4))
            number += 1
    lines = styles(read_cells(SweepDir(cell.path.parent)))
    assert len({(line.colour, line.dashes) for line in lines.values()}) == len(lines) == 12


def test_evaluations_lie_at_the_tokens_of_the_row_before(make_cell: CellMaker) -> None:
    log = [{"step": 5, "num_tokens": 90, "loss": 1.0}, {"step": 5, "eval_loss": 0.9}]
    cell = make_cell(0, "without_comparison", log=log)
    (read,) = read_cells(SweepDir(cell.path.parent))
    assert [values.tolist() for values in _points(read, TOKENS, "eval_loss")] == [[90.0], [0.9]]
    assert [values.tolist() for values in _points(read, STEPS, "eval_loss")] == [[5.0], [0.9]]


def test_long_logs_are_drawn_by_the_means_of_equal_parts() -> None:
    places_, values = _thinned(np.arange(3.0 * MOST_POINTS), np.tile([1.0, 2.0, 6.0], MOST_POINTS))
    assert len(values) == MOST_POINTS
    assert values.tolist() == [3.0] * MOST_POINTS
    assert places_[:2].tolist() == [1.0, 4.0]
