"""Test which records the error gallery shows."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.helpers.reports import RunMaker
from vlmbench.report import gallery as module
from vlmbench.report.gallery import Gallery, gallery
from vlmbench.report.runs import read_runs
from vlmbench.report.verdicts import findings
from vlmbench.runs.folder import RunDir
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import LABELS, Prediction, Probe, Task


def make_prediction(
    name: str, sure: float, *, right: bool = False, task: Task = Task.JUDGE_PAIR, **given: Any
) -> Prediction:
    negative, positive = LABELS[task]
    answer, other = (negative, positive) if right else (positive, negative)
    values = {
        "id": name,
        "task": task,
        "group": name,
        "view": "raw",
        "expected": negative,
        "predicted": answer,
        "scores": {answer: math.log(sure), other: math.log(1 - sure)},
    }
    return Prediction(**values | given)


def make_gallery(*runs: RunDir) -> Gallery:
    read = read_runs(SweepDir(runs[0].path.parent))
    return gallery(read, findings(read)[0])


def names(gallery: Gallery) -> list[str]:
    return [entry.record.id for entry in gallery.entries]


def test_runs_take_turns_and_each_gives_its_most_confident_error_first(make_run: RunMaker) -> None:
    first = make_run(
        0,
        "without_comparison",
        predictions=[
            make_prediction("a", 0.7),
            make_prediction("b", 0.9),
            make_prediction("c", 0.8),
        ],
    )
    second = make_run(
        1,
        "with_comparison",
        predictions=[
            make_prediction("a", 0.95),
            make_prediction("b", 0.9, right=True),
            make_prediction("c", 0.6),
        ],
    )
    page = make_gallery(first, second)
    # b of the first, a of the second; then c of the first, which is also next of the second
    assert names(page) == ["b", "a", "c"]
    assert [[answer.correct for answer in entry.answers] for entry in page.entries] == [
        [False, True],
        [False, False],
        [False, False],
    ]
    assert (page.errors, page.total) == ((3, 2), 3)


def test_no_task_crowds_out_another(make_run: RunMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RECORDS", 8)
    pairs = [make_prediction(f"pair-{i}", 0.9 - 0.01 * i) for i in range(9)]
    singles = [
        make_prediction(f"single-{i}", 0.9 - 0.01 * i, task=Task.JUDGE_SINGLE) for i in range(9)
    ]
    page = make_gallery(make_run(0, "without_comparison", predictions=[*pairs, *singles]))
    # three pairs and a single record a turn
    assert names(page) == [*(f"pair-{i}" for i in range(6)), "single-0", "single-1"]
    assert page.total == 18


def test_controls_come_last_and_only_those_whose_answer_is_known(make_run: RunMaker) -> None:
    controls = [
        make_prediction(probe, 0.99, probe=probe, of=("a",))
        for probe in (Probe.SELF, Probe.BLANK, Probe.SWAP)
    ]
    page = make_gallery(
        make_run(0, "without_comparison", predictions=[*controls, make_prediction("a", 0.6)])
    )
    assert names(page) == ["a", "self", "blank"]
    assert [entry.task for entry in page.entries] == [
        "judge pair",
        "judge pair, control: self",
        "judge pair, control: blank",
    ]
    assert (page.errors, page.total) == ((1,), 3)


def test_an_id_that_names_two_records_gives_two_entries(make_run: RunMaker) -> None:
    first = make_run(
        0,
        "without_comparison",
        predictions=[make_prediction("a", 0.9, images=("/x/1.png", "/x/2.png"))],
    )
    second = make_run(
        1,
        "without_comparison",
        predictions=[make_prediction("a", 0.9, images=("/y/1.png", "/y/2.png"))],
    )
    page = make_gallery(first, second)
    assert names(page) == ["a", "a"]
    assert [[answer.run for answer in entry.answers] for entry in page.entries] == [[0], [1]]


def test_the_gallery_opens_with_a_variant_and_its_baseline(make_run: RunMaker) -> None:
    runs = [
        make_run(
            number,
            data,
            predictions=[make_prediction("a", 0.9), make_prediction("b", 0.9, expected="abnormal")],
        )
        for number, data in enumerate(("without_comparison", "single", "with_comparison"))
    ]
    page = make_gallery(*runs)
    assert [page.runs[number].data for number in (page.first, page.second)] == [
        "with_comparison",
        "without_comparison",
    ]


def test_a_single_run_is_compared_with_itself(make_run: RunMaker) -> None:
    page = make_gallery(make_run(0, "without_comparison", predictions=[make_prediction("a", 0.9)]))
    assert (page.first, page.second) == (0, 0)


def test_generated_answers_show_their_text(make_run: RunMaker) -> None:
    wordy = make_prediction("a", 0.9, scores={}, text="abnormal: a dent")
    mute = make_prediction("b", 0.9, scores={}, predicted=None, text="I cannot tell")
    page = make_gallery(make_run(0, "without_comparison", predictions=[wordy, mute]))
    assert [
        (entry.answers[0].answer, entry.answers[0].text, entry.answers[0].confidence_words)
        for entry in page.entries
    ] == [
        ("abnormal", "abnormal: a dent", ""),
        ("I cannot tell", "", ""),
    ]
