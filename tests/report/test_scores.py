"""Test confusion and reliability against counts by hand, and the data behind the curves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.helpers.reports import RunMaker, make_log
from vlmbench.report.plots.curves import MOST_POINTS, STEPS, TOKENS, _points, _thin_out, line_styles
from vlmbench.report.runs import read_runs
from vlmbench.report.scores import NO_LABEL, confusion, reliability, task_view_scores
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import LABELS, Prediction, Task


def answer(
    number: int,
    expected: str,
    predicted: str | None,
    sure: float | None = None,
    task: Task = Task.JUDGE_PAIR,
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
    predicted = ["normal", "normal", "normal", "abnormal", "abnormal", "normal"]
    true = ["normal"] * 4 + ["abnormal"] * 2
    matrix = confusion(
        [
            answer(i, expected, label)
            for i, (expected, label) in enumerate(zip(true, predicted, strict=True))
        ]
    )
    assert matrix.columns == ("normal", "abnormal")
    assert [(name, n, [share.count for share in row]) for name, n, row in matrix.rows] == [
        ("normal", 4, [3, 1]),
        ("abnormal", 2, [1, 1]),
    ]
    assert [each.share.text for each in matrix.rows[0][2]] == ["75.0 %", "25.0 %"]
    assert [each.right for each in matrix.rows[0][2]] == [True, False]


def test_answers_without_a_label_have_their_own_column() -> None:
    matrix = confusion([answer(0, "normal", None), answer(1, "abnormal", "abnormal")])
    assert matrix.columns == ("normal", "abnormal", NO_LABEL)
    assert [[share.count for share in row] for _, _, row in matrix.rows] == [[0, 0, 1], [0, 1, 0]]


def test_bins_hold_the_records_of_similar_confidence() -> None:
    rows = [(0.55, True), (0.58, False), (0.6, True), (0.61, True), (0.95, True), (0.97, False)]
    answers = [
        answer(i, "normal", "normal" if right else "abnormal", sure)
        for i, (sure, right) in enumerate(rows)
    ]
    bins = reliability(answers)
    assert [each.middle for each in bins] == pytest.approx([0.55, 0.65, 0.95])
    assert [each.confidence for each in bins] == pytest.approx(
        [(0.55 + 0.58 + 0.6) / 3, 0.61, 0.96]
    )
    assert [each.right.value for each in bins] == pytest.approx([2 / 3, 1.0, 0.5])
    assert [each.right.n for each in bins] == [3, 1, 2]
    # the calibration error of these records is the bins' gaps by their shares
    gaps = [each.right.n / 6 * abs(each.right.value - each.confidence) for each in bins]
    assert sum(gaps) == pytest.approx((0.27 + 0.39 + 0.92) / 6)


def test_predictions_with_labels_of_another_kind_have_no_confusion(
    make_run: RunMaker,
) -> None:
    strange = [answer(0, "B", "A"), answer(1, "A", "A")]
    run = make_run(0, "without_comparison", predictions=strange)
    assert task_view_scores(read_runs(SweepDir(run.path.parent))) == []


def test_the_baseline_of_a_series_has_the_same_model(make_run: RunMaker) -> None:
    predictions = [answer(0, "normal", "normal", 0.8), answer(1, "abnormal", "abnormal", 0.7)]
    for number, (model, data) in enumerate(
        [
            ("small", "without_comparison"),
            ("large", "with_comparison"),
            ("small", "with_comparison"),
        ]
    ):
        details = {"model": model, "overrides": []}
        run = make_run(number, data, predictions=predictions, details=details)
    (task_view,) = task_view_scores(read_runs(SweepDir(run.path.parent)))
    baselines = [task_view.baseline_of(member) for member in task_view.members]
    assert [baseline and baseline.series.name for baseline in baselines] == [
        None,
        None,
        "small · without_comparison",
    ]


def test_no_two_of_many_series_are_drawn_alike(make_run: RunMaker) -> None:
    number = 0
    for model in ("small", "large"):
        for data in (
            "without_comparison",
            "with_views",
            "with_shapes",
            "with_comparison",
            "matched_control",
            "single",
        ):
            run = make_run(
                number, data, details={"model": model, "overrides": []}, log=make_log(10, 0.4)
            )
            number += 1
    lines = line_styles(read_runs(SweepDir(run.path.parent)))
    assert len({(line.colour, line.dashes) for line in lines.values()}) == len(lines) == 12


def test_evaluations_take_the_tokens_of_the_row_before(make_run: RunMaker) -> None:
    log = [{"step": 5, "num_tokens": 90, "loss": 1.0}, {"step": 5, "eval_loss": 0.9}]
    run = make_run(0, "without_comparison", log=log)
    (read,) = read_runs(SweepDir(run.path.parent))
    assert [values.tolist() for values in _points(read, TOKENS, "eval_loss")] == [[90.0], [0.9]]
    assert [values.tolist() for values in _points(read, STEPS, "eval_loss")] == [[5.0], [0.9]]


def test_long_logs_are_drawn_by_the_means_of_equal_parts() -> None:
    steps, values = _thin_out(np.arange(3.0 * MOST_POINTS), np.tile([1.0, 2.0, 6.0], MOST_POINTS))
    assert len(values) == MOST_POINTS
    assert values.tolist() == [3.0] * MOST_POINTS
    assert steps[:2].tolist() == [1.0, 4.0]
