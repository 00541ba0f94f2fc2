"""Runs whose test split has no abnormal record: overkill is told, and misses are not known."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.helpers.predictions import answers
from tests.helpers.reports import RunMaker, sweep_of
from vlmbench.data.planted import NO_MISSES, describe_planted
from vlmbench.pipeline.measure import measure
from vlmbench.report import write_report
from vlmbench.report.card import model_card
from vlmbench.runs.folder import RunDir
from vlmbench.types import PLANTED, Prediction, Record, Task


def good_answers(false_alarms: int) -> list[Prediction]:
    """Return answers to 20 normal pairs of 20 parts."""
    return answers([1.0 if i < false_alarms else -1.0 for i in range(20)], [False] * 20)


def metrics_of(predictions: list[Prediction]) -> dict[str, Any]:
    scores = measure(predictions, seed=0)
    return {"scores": scores, "data": {"by_task": {"judge_pair": 5}}, "notes": [NO_MISSES]}


@pytest.fixture
def runs(make_run: RunMaker) -> list[RunDir]:
    """Two finished variants; the second one never raises an alarm."""
    made = []
    for number, (data, alarms) in enumerate((("without_comparison", 4), ("with_comparison", 0))):
        predictions = good_answers(alarms)
        run = make_run(number, data, predictions=predictions, metrics=metrics_of(predictions))
        made.append(run)
    return made


def test_the_report_tells_overkill_and_that_misses_are_unknown(runs: list[RunDir]) -> None:
    page = write_report(sweep_of(runs[0]))
    text = page.with_name("report.md").read_text(encoding="utf-8")
    assert "misses could not be measured" in text
    assert "misses not measured, because no record is abnormal; overkill 20.0 %" in text
    assert "better than guessing" not in text.partition("### 3.")[2].partition("### 4.")[0]
    (row,) = [line for line in text.splitlines() if line.startswith("|") and "20.0 % (" in line][:1]
    assert "n 20, 20 parts" in row


def test_no_variant_is_better_by_overkill_alone(runs: list[RunDir]) -> None:
    page = write_report(sweep_of(runs[0]))
    verdicts = json.loads(page.with_name("verdicts.json").read_text(encoding="utf-8"))
    found = [row for row in verdicts["findings"] if row["task"] == "judge_pair"]
    assert not found
    text = page.with_name("report.md").read_text(encoding="utf-8")
    assert "No comparison: the test split has no abnormal record, so misses are unknown" in text


def test_the_card_says_that_misses_could_not_be_measured(runs: list[RunDir]) -> None:
    rules: dict[str, Any] = {"parity": {}, "model": "smol", "questions": {}, "vlmbench": "0"}
    card = model_card(
        runs[0],
        licence="MIT",
        base="a/b",
        tasks=[Task.JUDGE_PAIR],
        rules=rules,
        notes=[],
    )
    assert "**Misses could not be measured, because no abnormal record was tested.**" in card


def record(number: int, label: str, *, planted: bool = False) -> Record:
    meta = {PLANTED: "hole"} if planted else {}
    return Record(
        id=f"r{number}",
        task=Task.JUDGE_PAIR,
        images=(),
        answer=label,
        label=label,
        group=f"p{number}",
        meta=meta,
    )


def test_a_reader_is_told_what_rests_on_planted_defects() -> None:
    normal, real = record(0, "normal"), record(1, "abnormal")
    planted = record(2, "abnormal", planted=True)
    assert describe_planted([normal, real], [normal, real], [normal, real]) == []

    train, validation, misses = describe_planted([normal, real, planted], [planted], [normal])
    assert train.startswith("1 of 2 abnormal training records have planted defects")
    assert validation.startswith("all 1 abnormal validation records have planted defects")
    assert misses == NO_MISSES
    assert NO_MISSES not in describe_planted([planted], [planted], [normal, real])
    assert len(describe_planted([planted, replace(planted, id="x")], [real], [real])) == 1
