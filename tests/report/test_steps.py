"""Test the answers to the experiment's questions on runs with known results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.helpers.reports import RunMaker
from vlmbench.report.runs import read_runs
from vlmbench.report.step import Step
from vlmbench.report.steps import steps
from vlmbench.report.verdicts import findings
from vlmbench.runs.folder import RunDir
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import LABELS, Prediction, Task

PARTS = 100


def make_predictions(task: Task, view: str, right: int, *, parts: int = PARTS) -> list[Prediction]:
    """Return one record a part, with alternating labels; the first `right` answers are right."""
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
    return [
        {"step": 50, "eval_loss": 2.0, "eval_balanced_accuracy": 0.5},
        {"step": 100, "eval_loss": loss},
    ]


def answered_steps(runs: Sequence[RunDir]) -> list[Step]:
    read = read_runs(SweepDir(runs[0].path.parent))
    return steps(read, findings(read)[0])


def of(step: Step) -> list[tuple[str, str, str]]:
    return [(answer.about, answer.figure, answer.conclusion) for answer in step.answers]


def make_runs(make_run: RunMaker) -> list[RunDir]:
    """Write runs of two models.

    The larger model with comparison records has 5 errors; the other runs are half wrong.
    """
    runs = []
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
                *make_predictions(Task.JUDGE_PAIR, "raw", right),
                *make_predictions(Task.JUDGE_PAIR, "rt", 95),
                *make_predictions(Task.COMPARE_VIEWS, "raw+rt", right),
                *make_predictions(Task.JUDGE_SINGLE, "raw", 90),
            ]
            details = {"model": model, "data": data, "seed": seed, "overrides": []}
            seeds_own = log(loss + 0.01 * seed)
            runs.append(
                make_run(len(runs), data, details=details, predictions=predictions, log=seeds_own)
            )
    return runs


def test_every_question_of_the_experiment_is_answered(make_run: RunMaker) -> None:
    losses, understood, pairs, views, models, singles = answered_steps(make_runs(make_run))
    assert of(losses)[0] == (
        "small · with_comparison",
        "+0.0000",
        "the last held-out loss is that of without_comparison",
    )
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
    about, figure, conclusion = of(understood)[3]
    assert (about, figure) == ("large · with_comparison, compare views, raw+rt", "95.0 %")
    assert conclusion.startswith("better than guessing; misses 6.0 % (")
    assert [figure for _, figure, _ in of(pairs)] == [
        "50.0 %",
        "50.0 %",
        "50.0 %",
        "95.0 %",
        "50.0 %",
    ]
    assert of(pairs)[0][2].startswith("not told apart from guessing; misses 50.0 % (")
    assert of(views)[0] == (
        "small · without_comparison",
        "+45.0 points",
        "it judges rt pairs better than raw ones",
    )
    assert of(views)[3] == (
        "large · with_comparison",
        "+0.0 points",
        "these runs do not tell whether it judges rt pairs better or worse than raw ones",
    )
    assert of(models) == [
        (
            "without_comparison",
            "+0.0 points",
            "these runs do not tell whether large judges raw pairs better or worse than small",
        ),
        ("with_comparison", "+45.0 points", "large judges raw pairs better than small"),
    ]
    assert of(singles)[0][:2] == ("large · single, judge single, raw", "90.0 %")
    assert all(
        answer.interval
        for step in (losses, understood, pairs, views, models, singles)
        for answer in step.answers
    )


def test_a_sentence_has_figure_interval_and_basis(make_run: RunMaker) -> None:
    models = answered_steps(make_runs(make_run))[4]
    sentence = models.answers[1].sentence
    assert sentence.startswith("with_comparison: +45.0 points (95 % interval +")
    assert sentence.endswith(
        "100 records of 100 parts, 2 seeds): large judges raw pairs better than small."
    )


def test_one_seed_gives_a_loss_without_interval_and_says_so(make_run: RunMaker) -> None:
    runs = [
        make_run(
            number, data, predictions=make_predictions(Task.JUDGE_PAIR, "raw", 50), log=log(loss)
        )
        for number, (data, loss) in enumerate(
            (("without_comparison", 0.7), ("with_comparison", 0.5))
        )
    ]
    (answer,) = answered_steps(runs)[0].answers
    assert (answer.figure, answer.interval) == ("−0.2000", "")
    assert answer.conclusion.endswith("with one seed; another seed may differ")


def test_a_constant_answer_is_reported(make_run: RunMaker) -> None:
    negative = LABELS[Task.JUDGE_PAIR][0]
    same = [
        Prediction(
            id=p.id,
            task=p.task,
            group=p.group,
            view=p.view,
            expected=p.expected,
            predicted=negative,
        )
        for p in make_predictions(Task.JUDGE_PAIR, "raw", 50)
    ]
    (answer,) = answered_steps([make_run(0, "without_comparison", predictions=same)])[2].answers
    assert answer.conclusion.startswith("always answers normal; misses 100.0 % (")


def test_a_step_without_answers_names_what_it_needs(make_run: RunMaker) -> None:
    unanswered = answered_steps(
        [
            make_run(
                0, "without_comparison", predictions=make_predictions(Task.JUDGE_PAIR, "raw", 50)
            )
        ]
    )
    assert [bool(step.answers) for step in unanswered] == [False, False, True, False, False, False]
    assert unanswered[5].needs == "data=single"


def test_views_of_different_parts_are_not_compared(make_run: RunMaker) -> None:
    predictions = [
        *make_predictions(Task.JUDGE_PAIR, "raw", 50),
        *make_predictions(Task.JUDGE_PAIR, "rt", 50, parts=40),
    ]
    assert not answered_steps([make_run(0, "without_comparison", predictions=predictions)])[
        3
    ].answers
