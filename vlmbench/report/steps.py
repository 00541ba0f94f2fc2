"""The experiment's questions in their order, each with its answers.

The steps come from an article on pair judgement (see README). Is the held-out loss lower with
comparison records? Were these records understood? Are real pairs judged better? Do processed images
help? Is the smaller model too small? How well are single images judged?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from vlmbench.report.changes import Change, change, in_order
from vlmbench.report.decisions import Answers, answers_of
from vlmbench.report.figures import figure
from vlmbench.report.losses import control_answers, loss_answers
from vlmbench.report.questions import BASELINE, CONTROL, SINGLE
from vlmbench.report.runs import RunResult
from vlmbench.report.series import Series, series_of
from vlmbench.report.step import Step, StepAnswer
from vlmbench.report.verdicts import Finding
from vlmbench.stats import Comparison, estimate_rate, rule_of
from vlmbench.stats.compare import UNKNOWN
from vlmbench.system.text import counted
from vlmbench.types import LABELS, Estimate, Prediction, Rate, Task, UserError

RAW = "raw"
COMPARING = (Task.COMPARE_VIEWS, Task.COMPARE_SHAPES)


def steps(runs: Sequence[RunResult], findings: Sequence[Finding]) -> list[Step]:
    """Return every question with the answers that these runs hold."""
    series = series_of(runs)
    return [
        Step(
            title="Is the held-out loss lower with comparison records, and are they the reason?",
            needs=f"data={BASELINE},with_comparison,{CONTROL} and trainer.eval_steps",
            answers=(*loss_answers(series), *control_answers(findings)),
        ),
        Step(
            title="Were the comparison records understood?",
            needs="a source that writes them",
            answers=tuple(
                _rates(
                    series,
                    COMPARING,
                    lambda member: member.data not in (SINGLE, CONTROL),
                )
            ),
        ),
        Step(
            title="The real job: how well are held-out raw pairs judged?",
            needs="held-out raw pairs",
            answers=tuple(
                _rates(
                    series,
                    (Task.JUDGE_PAIR,),
                    lambda member: member.data != SINGLE,
                    view=RAW,
                )
            ),
        ),
        Step(
            title="Are processed images judged better than raw ones?",
            needs="held-out pairs in both views",
            answers=tuple(_view_answers(series)),
        ),
        Step(
            title="Is the smaller model too small?",
            needs="runs of two models on the same data",
            answers=tuple(_model_answers(series)),
        ),
        Step(
            title="How well are simple single images judged?",
            needs=f"data={SINGLE}",
            answers=tuple(
                _rates(
                    series,
                    (Task.JUDGE_SINGLE,),
                    lambda member: member.data == SINGLE,
                )
            ),
        ),
    ]


# Rates


def _rates(
    series: Sequence[Series],
    tasks: Sequence[Task],
    is_wanted: Callable[[Series], bool],
    view: str | None = None,
) -> Iterator[StepAnswer]:
    """Yield the accuracy of each wanted series, on each task, in `view` or in all views."""
    for member in filter(is_wanted, series):
        for task in tasks:
            for each_view in member.views(task):
                predictions = member.answers(task, each_view)
                if not predictions or view not in (None, each_view):
                    continue

                about = f"{member.name}, {task.replace('_', ' ')}, {each_view}"
                yield _rate(about, predictions, member.seeds)


def _rate(
    about: str,
    predictions: Sequence[Prediction],
    seeds: str,
) -> StepAnswer:
    """Return accuracy, misses and overkill on one task in one view."""
    negative, positive = LABELS[predictions[0].task]
    hits = [each.correct for each in predictions]
    right = _estimate(hits, predictions)

    accuracy = figure("accuracy", asdict(right))
    has_both = len({each.expected for each in predictions}) > 1
    conclusions = [_compare_with_guessing(predictions, right)] if has_both else []

    for name, label in (("misses", positive), ("overkill", negative)):
        members = [each for each in predictions if each.expected == label]
        if members:
            wrong = _estimate([not each.correct for each in members], members)
            conclusions.append(f"{name} {figure('accuracy', asdict(wrong)).sentence}")
        else:
            conclusions.append(f"{name} not measured, because no record is {label}")

    return StepAnswer(
        about=about,
        figure=accuracy.text,
        interval=accuracy.interval,
        basis=f"{accuracy.count}, {seeds}",
        conclusion="; ".join(conclusions),
    )


def _compare_with_guessing(predictions: Sequence[Prediction], right: Estimate) -> str:
    """Return whether the accuracy is better than always giving the commonest label."""
    answers = {each.predicted for each in predictions}
    if len(answers) == 1:
        return f"always answers {answers.pop() or 'without a label'}"

    labels = LABELS[predictions[0].task]
    commonest = max(sum(each.expected == label for each in predictions) for label in labels)
    guessing = commonest / len(predictions)

    if right.low > guessing:
        return "better than guessing"
    return "worse than guessing" if right.high < guessing else "not told apart from guessing"


def _estimate(hits: Sequence[bool], predictions: Sequence[Prediction]) -> Estimate:
    """Return the share of `hits` with an interval that keeps the records of a part together."""
    return estimate_rate(Rate(hits=tuple(hits), parts=tuple(each.cluster for each in predictions)))


# Differences


def _view_answers(series: Sequence[Series]) -> Iterator[StepAnswer]:
    """Compare each processed view with the raw view, record by record within each part."""
    for member in series:
        views = member.views(Task.JUDGE_PAIR)
        if RAW not in views or member.data == SINGLE:
            continue

        for view in views:
            if view != RAW:
                yield from _view_change(member, view)


def _view_change(series: Series, view: str) -> Iterator[StepAnswer]:
    """Yield the change from raw to `view`; nothing if their parts, labels or counts differ.

    Records are matched within each part, in the order of their names.
    """
    rule = rule_of(series.runs[0].config)
    try:
        arms = [answers_of(series.runs, Task.JUDGE_PAIR, each, rule) for each in (view, RAW)]
    except UserError:
        return

    processed, raw = (_by_part(arm) for arm in arms)
    if processed.clusters != raw.clusters or (processed.positive != raw.positive).any():
        return

    found = change(rule.figure, processed, raw, rule)
    yield StepAnswer(
        about=series.name,
        figure=found.difference,
        interval=found.interval,
        basis=f"{rule.words}; {_sample(found.comparison, 'pair')}, {series.seeds}",
        conclusion=_verdict_words(found, f"it judges {view} pairs", "raw ones"),
    )


def _by_part(answers: Answers) -> Answers:
    """Return the answers sorted by part and record, so that two views can be matched."""
    keys = sorted(zip(answers.clusters, answers.ids, strict=True))
    ids = [record for _, record in keys]
    return in_order(answers, ids)


def _sample(comparison: Comparison, noun: str) -> str:
    return f"{counted(comparison.n_records, noun)} of {counted(comparison.n_clusters, 'part')}"


def _model_answers(series: Sequence[Series]) -> Iterator[StepAnswer]:
    """Compare each model with the first one, on the same data and setting."""
    first_model = series[0].model if series else ""
    first_series = [
        member for member in series if member.model == first_model and member.data != SINGLE
    ]

    for small in first_series:
        for large in series:
            same_data = (large.data, large.setting) == (small.data, small.setting)
            if large.model != first_model and same_data:
                yield from _model_change(large, small)


def _model_change(large: Series, small: Series) -> Iterator[StepAnswer]:
    """Yield the change from `small` to `large`; nothing if their records differ."""
    rule = rule_of(large.runs[0].config)
    try:
        first = answers_of(large.runs, Task.JUDGE_PAIR, RAW, rule)
        second = in_order(answers_of(small.runs, Task.JUDGE_PAIR, RAW, rule), first.ids)
        found = change(rule.figure, first, second, rule)
    except UserError:
        return

    seeds = counted(min(len(large.runs), len(small.runs)), "seed")
    yield StepAnswer(
        about=" · ".join(name for name in (small.data, small.setting) if name),
        figure=found.difference,
        interval=found.interval,
        basis=f"{rule.words}; {_sample(found.comparison, 'record')}, {seeds}",
        conclusion=_verdict_words(found, f"{large.model} judges raw pairs", small.model),
    )


def _verdict_words(found: Change, subject: str, reference: str) -> str:
    """Return the verdict as a clause, such as `large judges raw pairs better than small`."""
    comparison = found.comparison
    if comparison.is_one_seed and not comparison.is_too_small:
        differ = "differ" if comparison.models_differ else "are not told apart"
        return f"the trained models at hand {differ}; one seed gives no verdict"

    word = found.word
    if word.endswith(("better", "worse")):
        return f"{subject} {word} than {reference}"
    if word == UNKNOWN:
        return f"these runs do not tell whether {subject} better or worse than {reference}"
    return f"{subject} like {reference}, within {comparison.margin_words}"
