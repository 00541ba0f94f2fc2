"""The experiment's questions in their order, each with its answers.

The steps come from an article on pair judgement (see README). Is the held-out loss lower with
comparison records? Were these records understood? Are real pairs judged better? Do processed images
help? Is the smaller model too small? How well are single images judged?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain

import numpy as np

from vlmbench.report.figures import figure, points, span
from vlmbench.report.losses import control_answers, loss_answers
from vlmbench.report.runs import RunResult, Series, series_of
from vlmbench.report.step import Step, StepAnswer, seed_words
from vlmbench.report.verdicts import BASELINE, CONTROL, RESAMPLING_SEED, SINGLE, Finding
from vlmbench.stats import compare, estimate_rate, interval, verdict
from vlmbench.stats.clusters import Floats
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
    conclusions = [_compare_with_guessing(predictions, right)]

    for name, label in (("misses", positive), ("overkill", negative)):
        members = [each for each in predictions if each.expected == label]
        if members:
            wrong = _estimate([not each.correct for each in members], members)
            conclusions.append(f"{name} {figure('accuracy', asdict(wrong)).sentence}")

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
    return estimate_rate(Rate(hits=tuple(hits), parts=tuple(each.group for each in predictions)))


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
    """Yield the change from raw to `view`; nothing if their parts or counts differ."""
    processed, raw = _by_part(series, view), _by_part(series, RAW)
    parts = [each.group for each in raw[0]]

    if any([each.group for each in seed] != parts for seed in chain(processed, raw)):
        return

    part_numbers = np.unique(np.array(parts), return_inverse=True)[1]
    change = interval(
        _correctness(processed), _correctness(raw), part_numbers, seed=RESAMPLING_SEED
    )
    yield StepAnswer(
        about=series.name,
        figure=points(change.difference),
        interval=span(points, change.low, change.high),
        basis=f"{len(parts)} pairs of {part_numbers.max() + 1} parts, {series.seeds}",
        conclusion=_verdict_words(verdict(change), f"judges {view} pairs", "raw ones"),
    )


def _by_part(series: Series, view: str) -> list[list[Prediction]]:
    """Return the pair predictions of each seed, sorted by part and record."""
    seeds = series.by_seed(Task.JUDGE_PAIR, view)
    return [sorted(seed, key=lambda each: (each.group, each.id)) for seed in seeds]


def _correctness(seeds: Sequence[Sequence[Prediction]]) -> Floats:
    """Return 1.0 for right and 0.0 for wrong answers, (seeds, records)."""
    rows = [[each.correct for each in seed] for seed in seeds]
    return np.array(rows, dtype=np.float64)


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
    try:
        comparison = compare(
            large.by_seed(Task.JUDGE_PAIR, RAW),
            small.by_seed(Task.JUDGE_PAIR, RAW),
            seed=RESAMPLING_SEED,
        )
    except UserError:
        return

    sample = f"{comparison.n_records} records of {comparison.n_parts} parts"
    yield StepAnswer(
        about=" · ".join(name for name in (small.data, small.setting) if name),
        figure=points(comparison.difference),
        interval=span(points, comparison.low, comparison.high),
        basis=f"{sample}, {seed_words(comparison.n_seeds)}",
        conclusion=_verdict_words(
            verdict(comparison), f"{large.model} judges raw pairs", small.model
        ),
    )


def _verdict_words(words: str, subject: str, reference: str) -> str:
    """Return the verdict as a clause, such as `large judges raw pairs better than small`."""
    if words in ("better", "worse"):
        return f"{subject} {words} than {reference}"
    if words.startswith("no difference"):
        return f"{subject} like {reference}, within 2 points"

    return f"{subject} no differently from {reference}, as far as these runs tell"
