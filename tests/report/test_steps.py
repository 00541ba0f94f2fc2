"""The experiment's questions, answered from cells whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.report.conftest import CellMaker
from vlmbench.report.cells import read_cells
from vlmbench.report.steps import Step, steps
from vlmbench.report.verdicts import findings
from vlmbench.rundir import RunDir, SweepDir
from vlmbench.types import LABELS, Prediction, Task

PARTS = 100


def answered(task: Task, view: str, right: int, *, parts: int = PARTS) -> list[Prediction]:
    """A record a part, its labels by turns; the first `right` are answered rightly."""
    negative, positive = LABELS[task]
    return [
        Prediction(
            id=f"{task}-{view}-{i:03}",
            task=task,
            group=f"part-{i:03}",
            view=view,
            expected=(expected := (negative, positive)[i % 2]),
            predicted=expected if i < right else (positive if expected == negative else negative),
        )
        for i in range(parts)
    ]


def log(loss: float) -> list[dict[str, Any]]:
    return [{"step": 50, "eval_loss": 2.0, "eval_balanced_accuracy": 0.5}, {"step": 100, "eval_loss": loss}]


def asked(cells: Sequence[RunDir]) -> list[Step]:
    read = read_cells(SweepDir(cells[0].path.parent))
    return steps(read, findings(read)[0])


def of(step: Step) -> list[tuple[str, str, str]]:
    return [(answer.about, answer.figure, answer.said) for answer in step.answers]


def make_experiment(make_cell: CellMaker) -> list[RunDir]:
    """Two models; the larger one with comparison records judges everything rightly but 5, the others half of it."""
    cells = []
    for model, data, right, loss in (
        ("small", "without_comparison", 50, 0.7),
        ("small", "with_comparison", 50, 0.7),
        ("large", "without_comparison", 50, 0.7),
        ("large", "with_comparison", 95, 0.4),
        ("large", "matched_control", 50, 0.7),
        ("large", "single", 50, 0.1),
    ):
        for seed in (0, 1):
            predictions = [
                *answered(Task.JUDGE_PAIR, "raw", right),
                *answered(Task.JUDGE_PAIR, "rt", 95),
                *answered(Task.COMPARE_VIEWS, "raw+rt", right),
                *answered(Task.JUDGE_SINGLE, "raw", 90),
            ]
            details = {"model": model, "data": data, "seed": seed, "overrides": []}
            seeds_own = log(loss + 0.01 * seed)
            cells.append(make_cell(len(cells), data, details=details, predictions=predictions, log=seeds_own))
    return cells


def test_every_question_of_the_experiment_is_answered(make_cell: CellMaker) -> None:
    losses, understood, pairs, views, models, singles = asked(make_experiment(make_cell))
    assert of(losses)[0][:2] == ("small · with_comparison", "+0.0000")
    assert (
        "large · with_comparison",
        "−0.3000",
        "the last held-out loss is lower than that of without_comparison",
    ) in of(losses)
    assert (
        "large · with_comparison against matched_control, raw pairs",
        "+45.0 points",
        "the records themselves help, not only their number",
    ) in of(losses)
    assert not any("single" in about for about, _, _ in of(losses))
    about, figure, said = of(understood)[3]
    assert (about, figure) == ("large · with_comparison, compare views, raw+rt", "95.0 %")
    assert said.startswith("better than guessing; misses 6.0 % (")
    assert [figure for _, figure, _ in of(pairs)] == ["50.0 %", "50.0 %", "50.0 %", "95.0 %", "50.0 %"]
    assert of(pairs)[0][2].startswith("not told apart from guessing; misses 50.0 % (")
    assert of(views)[0] == ("small · without_comparison", "+45.0 points", "judges rt pairs better than raw ones")
    assert of(views)[3] == ("large · with_comparison", "+0.0 points", "judges rt pairs like raw ones, to 2 points")
    assert of(models) == [
        ("without_comparison", "+0.0 points", "large judges raw pairs like small, to 2 points"),
        ("with_comparison", "+45.0 points", "large judges raw pairs better than small"),
    ]
    assert of(singles)[0][:2] == ("large · single, judge single, raw", "90.0 %")
    assert all(
        answer.interval for step in (losses, understood, pairs, views, models, singles) for answer in step.answers
    )


def test_a_sentence_holds_figure_interval_and_what_it_rests_on(make_cell: CellMaker) -> None:
    models = asked(make_experiment(make_cell))[4]
    sentence = models.answers[1].sentence
    assert sentence.startswith("with_comparison: +45.0 points (95 % interval +")
    assert sentence.endswith("100 records of 100 parts, 2 seeds): large judges raw pairs better than small.")


def test_one_seed_gives_a_loss_without_interval_and_says_so(make_cell: CellMaker) -> None:
    cells = [
        make_cell(number, data, predictions=answered(Task.JUDGE_PAIR, "raw", 50), log=log(loss))
        for number, (data, loss) in enumerate((("without_comparison", 0.7), ("with_comparison", 0.5)))
    ]
    (answer,) = asked(cells)[0].answers
    assert (answer.figure, answer.interval) == ("−0.2000", "")
    assert answer.said.endswith("with one seed, so another may tell otherwise")


def test_a_judge_that_always_says_the_same_is_called_so(make_cell: CellMaker) -> None:
    negative = LABELS[Task.JUDGE_PAIR][0]
    same = [
        Prediction(id=p.id, task=p.task, group=p.group, view=p.view, expected=p.expected, predicted=negative)
        for p in answered(Task.JUDGE_PAIR, "raw", 50)
    ]
    (answer,) = asked([make_cell(0, "without_comparison", predictions=same)])[2].answers
    assert answer.said.startswith("always says normal; misses 100.0 % (")


def test_what_was_not_asked_says_what_it_takes(make_cell: CellMaker) -> None:
    found = asked([make_cell(0, "without_comparison", predictions=answered(Task.JUDGE_PAIR, "raw", 50))])
    assert [bool(step.answers) for step in found] == [False, False, True, False, False, False]
    assert found[5].needs == "data=single"


def test_views_of_different_parts_are_not_compared(make_cell: CellMaker) -> None:
    predictions = [*answered(Task.JUDGE_PAIR, "raw", 50), *answered(Task.JUDGE_PAIR, "rt", 50, parts=40)]
    assert not asked([make_cell(0, "without_comparison", predictions=predictions)])[3].answers
