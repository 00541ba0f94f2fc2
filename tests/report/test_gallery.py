"""Which records the error gallery shows."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.report.conftest import CellMaker
from vlmbench.report import gallery as module
from vlmbench.report.cells import read_cells
from vlmbench.report.gallery import Gallery, gallery
from vlmbench.report.verdicts import findings
from vlmbench.rundir import RunDir, SweepDir
from vlmbench.types import LABELS, Prediction, Probe, Task


def said(name: str, sure: float, *, right: bool = False, task: Task = Task.JUDGE_PAIR, **given: Any) -> Prediction:
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


def shown(*cells: RunDir) -> Gallery:
    read = read_cells(SweepDir(cells[0].path.parent))
    return gallery(read, findings(read)[0])


def names(found: Gallery) -> list[str]:
    return [entry.record.id for entry in found.entries]


def test_cells_take_turns_and_each_gives_its_surest_error_first(make_cell: CellMaker) -> None:
    first = make_cell(0, "without_comparison", predictions=[said("a", 0.7), said("b", 0.9), said("c", 0.8)])
    second = make_cell(1, "with_comparison", predictions=[said("a", 0.95), said("b", 0.9, right=True), said("c", 0.6)])
    found = shown(first, second)
    # b of the first, a of the second; then c of the first, which is also next of the second
    assert names(found) == ["b", "a", "c"]
    assert [[answer.correct for answer in entry.answers] for entry in found.entries] == [
        [False, True],
        [False, False],
        [False, False],
    ]
    assert (found.errors, found.total) == ((3, 2), 3)


def test_no_task_crowds_out_another(make_cell: CellMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RECORDS", 8)
    pairs = [said(f"pair-{i}", 0.9 - 0.01 * i) for i in range(9)]
    singles = [said(f"single-{i}", 0.9 - 0.01 * i, task=Task.JUDGE_SINGLE) for i in range(9)]
    found = shown(make_cell(0, "without_comparison", predictions=[*pairs, *singles]))
    # three pairs and a single record a turn
    assert names(found) == [*(f"pair-{i}" for i in range(6)), "single-0", "single-1"]
    assert found.total == 18


def test_controls_come_last_and_only_those_whose_answer_is_known(make_cell: CellMaker) -> None:
    controls = [said(probe, 0.99, probe=probe, of=("a",)) for probe in (Probe.SELF, Probe.BLANK, Probe.SWAP)]
    found = shown(make_cell(0, "without_comparison", predictions=[*controls, said("a", 0.6)]))
    assert names(found) == ["a", "self", "blank"]
    assert [entry.task for entry in found.entries] == [
        "judge pair",
        "judge pair, control: self",
        "judge pair, control: blank",
    ]
    assert (found.errors, found.total) == ((1,), 3)


def test_an_id_that_means_another_record_elsewhere_is_another_entry(make_cell: CellMaker) -> None:
    first = make_cell(0, "without_comparison", predictions=[said("a", 0.9, images=("/x/1.png", "/x/2.png"))])
    second = make_cell(1, "without_comparison", predictions=[said("a", 0.9, images=("/y/1.png", "/y/2.png"))])
    found = shown(first, second)
    assert names(found) == ["a", "a"]
    assert [[answer.cell for answer in entry.answers] for entry in found.entries] == [[0], [1]]


def test_the_first_look_is_at_a_variant_beside_its_baseline(make_cell: CellMaker) -> None:
    cells = [
        make_cell(number, data, predictions=[said("a", 0.9), said("b", 0.9, right=True)])
        for number, data in enumerate(("without_comparison", "single", "with_comparison"))
    ]
    found = shown(*cells)
    assert [found.cells[number].data for number in (found.first, found.second)] == [
        "with_comparison",
        "without_comparison",
    ]


def test_one_cell_stands_beside_itself(make_cell: CellMaker) -> None:
    found = shown(make_cell(0, "without_comparison", predictions=[said("a", 0.9)]))
    assert (found.first, found.second) == (0, 0)


def test_written_answers_show_their_words(make_cell: CellMaker) -> None:
    wordy = said("a", 0.9, scores={}, text="abnormal: a dent")
    mute = said("b", 0.9, scores={}, predicted=None, text="I cannot tell")
    found = shown(make_cell(0, "without_comparison", predictions=[wordy, mute]))
    assert [(e.answers[0].said, e.answers[0].words, e.answers[0].sureness) for e in found.entries] == [
        ("abnormal", "abnormal: a dent", ""),
        ("I cannot tell", "", ""),
    ]
