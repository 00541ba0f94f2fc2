"""The experiment's questions in their order, each with its figure, its interval and a plain sentence.

They are the steps of an article on pair judgement (see README): does training go better with comparison records, were
they understood, is the real job done better, is it on processed pictures, is the small model too small, and how well
does it judge single pictures?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import numpy as np
from scipy.stats import t

from vlmbench.report.cells import Cell, Series, series_of
from vlmbench.report.figures import figure, interval_words, points, span
from vlmbench.report.verdicts import BASELINE, CONTROL, RESAMPLING_SEED, SINGLE, Finding
from vlmbench.stats import compare, estimate_rate, interval, verdict
from vlmbench.types import LABELS, Estimate, Prediction, Rate, Task, UserError

RAW = "raw"
COMPARING = (Task.COMPARE_VIEWS, Task.COMPARE_SHAPES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One figure of what `about` names: its 95 % interval ("" where it has none), what it rests on, what it says."""

    about: str
    figure: str
    interval: str
    rests: str
    said: str

    @property
    def sentence(self) -> str:
        """All of it on one line."""
        details = "; ".join(part for part in (interval_words(self.interval), self.rests) if part)
        return f"{self.about}: {self.figure} ({details}): {self.said}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A question and its answers; `needs` says what a sweep without answers lacks."""

    title: str
    needs: str
    answers: tuple[Answer, ...]


def steps(cells: Sequence[Cell], found: Sequence[Finding]) -> list[Step]:
    """Every question, with the answers that these cells hold."""
    series = series_of(cells)
    return [
        Step(
            title="Is the held-out loss lower with comparison records, and are they the reason?",
            needs=f"data={BASELINE},with_comparison,{CONTROL} and trainer.eval_steps",
            answers=(*_losses(series), *_reasons(found)),
        ),
        Step(
            title="Were the comparison records understood?",
            needs="a source that writes them",
            answers=tuple(_rates(series, COMPARING, lambda one: one.data not in (SINGLE, CONTROL))),
        ),
        Step(
            title="The real job: how well are held-out raw pairs judged?",
            needs="held-out raw pairs",
            answers=tuple(_rates(series, (Task.JUDGE_PAIR,), lambda one: one.data != SINGLE, view=RAW)),
        ),
        Step(
            title="Are processed pictures judged better than raw ones?",
            needs="held-out pairs in both views",
            answers=tuple(_views(series)),
        ),
        Step(
            title="Is the smaller model too small?",
            needs="cells of two models on the same data",
            answers=tuple(_models(series)),
        ),
        Step(
            title="How well are simple single pictures judged?",
            needs=f"data={SINGLE}",
            answers=tuple(_rates(series, (Task.JUDGE_SINGLE,), lambda one: one.data == SINGLE)),
        ),
    ]


# Losses


def _losses(series: Sequence[Series]) -> Iterator[Answer]:
    """Of each variant against the baseline of the same model and setting: both are followed on the same records."""
    for base in series:
        for other in series:
            alike = (other.model, other.setting) == (base.model, base.setting)
            if alike and base.data == BASELINE and other.data not in (BASELINE, SINGLE):
                yield from _loss_change(other, base)


def _loss_change(other: Series, base: Series) -> Iterator[Answer]:
    losses, base_losses = _last_losses(other), _last_losses(base)
    changes = np.array([losses[seed] - base_losses[seed] for seed in losses if seed in base_losses])
    if not len(changes):
        return
    change, bounds = float(changes.mean()), ""
    said = f"the last held-out loss is {'lower' if change < 0 else 'higher'} than that of {base.data}"
    if len(changes) == 1:
        said += ", with one seed, so another may tell otherwise"
    else:
        half = float(t.ppf(0.975, len(changes) - 1)) * float(changes.std(ddof=1)) / len(changes) ** 0.5
        bounds = span(_signed, change - half, change + half)
        if abs(change) <= half:
            said = f"the last held-out loss cannot be told apart from that of {base.data}"
    yield Answer(about=other.name, figure=_signed(change), interval=bounds, rests=_seeds(len(changes)), said=said)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _last_losses(series: Series) -> Mapping[int | None, float]:
    """Seed -> the last held-out loss, where one was logged."""
    logged = {cell.seed: [row["eval_loss"] for row in cell.log if "eval_loss" in row] for cell in series.cells}
    return {seed: float(losses[-1]) for seed, losses in logged.items() if losses and losses[-1] is not None}


def _reasons(found: Sequence[Finding]) -> Iterator[Answer]:
    """What the control says of the variants on raw pairs."""
    reasons = {
        "better": "the records themselves help, not only their number",
        "worse": "as many more records of the old kind help more",
    }
    for finding in found:
        asked = finding.question
        if asked.baseline == CONTROL and (asked.task, asked.view) == (Task.JUDGE_PAIR, RAW):
            yield Answer(
                about=f"{asked.subject} · {asked.variant} against {CONTROL}, raw pairs",
                figure=finding.difference,
                interval=finding.interval,
                rests=finding.evidence,
                said=reasons.get(finding.verdict, "nothing shows that it is the records rather than their number"),
            )


# Rates


def _rates(
    series: Sequence[Series], tasks: Sequence[Task], wanted: Callable[[Series], bool], view: str | None = None
) -> Iterator[Answer]:
    for one in filter(wanted, series):
        for task in tasks:
            for shown in one.views(task):
                answers = one.answers(task, shown)
                if answers and view in (None, shown):
                    yield _rate(f"{one.name}, {task.replace('_', ' ')}, {shown}", answers, one.seeds)


def _rate(about: str, answers: Sequence[Prediction], seeds: str) -> Answer:
    """Of answers to one task in one view."""
    negative, positive = LABELS[answers[0].task]
    right = _estimate((answer.correct, answer.group) for answer in answers)
    shown = figure("accuracy", asdict(right))
    wrong = {
        name: [(not answer.correct, answer.group) for answer in answers if answer.expected == label]
        for name, label in (("misses", positive), ("overkill", negative))
    }
    parts = [f"{name} {figure('accuracy', asdict(_estimate(hits))).sentence}" for name, hits in wrong.items() if hits]
    return Answer(
        about=about,
        figure=shown.text,
        interval=shown.interval,
        rests=f"{shown.count}, {seeds}",
        said="; ".join([_told(answers, right), *parts]),
    )


def _told(answers: Sequence[Prediction], right: Estimate) -> str:
    """Whether it is better than saying the commonest label of all."""
    said = {answer.predicted for answer in answers}
    if len(said) == 1:
        return f"always says {said.pop() or 'what cannot be read'}"
    commonest = max(sum(answer.expected == label for answer in answers) for label in LABELS[answers[0].task])
    if right.low > commonest / len(answers):
        return "better than guessing"
    return "worse than guessing" if right.high < commonest / len(answers) else "not told apart from guessing"


def _estimate(hits: Iterable[tuple[bool, str]]) -> Estimate:
    values, groups = zip(*hits, strict=True)
    return estimate_rate(Rate(hits=values, groups=groups))


def _seeds(number: int) -> str:
    return "1 seed" if number == 1 else f"{number} seeds"


# Differences


def _views(series: Sequence[Series]) -> Iterator[Answer]:
    """Each processed view against the raw one, record by record within each part."""
    for one in series:
        views = one.views(Task.JUDGE_PAIR)
        for view in views:
            if view != RAW and RAW in views and one.data != SINGLE:
                yield from _view_change(one, view)


def _view_change(one: Series, view: str) -> Iterator[Answer]:
    """Nothing where the views do not show the same parts equally often."""
    processed, raw = (
        [sorted(seed, key=lambda p: (p.group, p.id)) for seed in one.by_seed(Task.JUDGE_PAIR, shown)]
        for shown in (view, RAW)
    )
    names = [answer.group for answer in raw[0]]
    if any([answer.group for answer in seed] != names for seed in chain(processed, raw)):
        return
    groups = np.unique(np.array(names), return_inverse=True)[1]
    of_processed, of_raw = (
        np.array([[answer.correct for answer in seed] for seed in side], dtype=np.float64) for side in (processed, raw)
    )
    found = interval(of_processed, of_raw, groups, seed=RESAMPLING_SEED)
    yield Answer(
        about=one.name,
        figure=points(found.difference),
        interval=span(points, found.low, found.high),
        rests=f"{len(names)} pairs of {groups.max() + 1} parts, {one.seeds}",
        said=_compared(verdict(found), f"judges {view} pairs", "raw ones"),
    )


def _models(series: Sequence[Series]) -> Iterator[Answer]:
    """Each model against the first, where both have cells of the same data and setting."""
    first = series[0].model if series else ""
    for small in (one for one in series if one.model == first and one.data != SINGLE):
        for large in series:
            if large.model != first and (large.data, large.setting) == (small.data, small.setting):
                yield from _model_change(large, small)


def _model_change(large: Series, small: Series) -> Iterator[Answer]:
    """Nothing where they were not asked the same records."""
    try:
        found = compare(large.by_seed(Task.JUDGE_PAIR, RAW), small.by_seed(Task.JUDGE_PAIR, RAW), seed=RESAMPLING_SEED)
    except UserError:
        return
    yield Answer(
        about=" · ".join(part for part in (small.data, small.setting) if part),
        figure=points(found.difference),
        interval=span(points, found.low, found.high),
        rests=f"{found.n_records} records of {found.n_groups} parts, {_seeds(found.n_seeds)}",
        said=_compared(verdict(found), f"{large.model} judges raw pairs", small.model),
    )


def _compared(words: str, one: str, other: str) -> str:
    if words in ("better", "worse"):
        return f"{one} {words} than {other}"
    if words.startswith("no difference"):
        return f"{one} like {other}, to 2 points"
    return f"{one} no differently from {other}, as far as these runs tell"
