"""Compare each data variant with its baseline, and word the verdict by rule from the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vlmbench.report.figures import interval_words, points, span
from vlmbench.report.runs import RunResult, group_by_series
from vlmbench.stats import Comparison, compare, holm, verdict
from vlmbench.types import Probe, Task, UserError

BASELINE = "without_comparison"

# It trains on as many tokens, which separates "comparison records" from "more records".
CONTROL = "matched_control"

# It trains on no pairs, so it is not compared on them.
SINGLE = "single"

# Tasks on which variants are compared, in this order -> the noun for what is judged.
TASKS: Mapping[str, str] = {
    Task.JUDGE_PAIR: "pairs",
    Task.JUDGE_LINK: "link pairs",
    Task.JUDGE_SINGLE: "single images",
    Task.COMPARE_VIEWS: "pairs of views",
    Task.COMPARE_SHAPES: "pairs of shapes",
}
SIGNIFICANT = 0.05

# A fixed seed gives the same verdict from the same predictions.
RESAMPLING_SEED = 0

# Verdict -> its sentence about variant {a} and baseline {b}.
SENTENCES: Mapping[str, str] = {
    "better": "{a} judges {what} better than {b}",
    "worse": "{a} judges {what} worse than {b}",
    "no difference larger than 2 points": "{a} and {b} differ by no more than 2 points on {what}",
    "not enough data to tell": (
        "These runs do not tell whether {a} judges {what} better or worse than {b}"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A variant against a baseline, with the same model and setting, on one task and view."""

    model: str
    setting: str
    variant: str
    baseline: str
    task: str
    view: str

    @property
    def main(self) -> bool:
        """Return whether this is the main question of the experiment."""
        return (self.task, self.view, self.baseline) == (Task.JUDGE_PAIR, "raw", BASELINE)

    @property
    def subject(self) -> str:
        return " · ".join(part for part in (self.model, self.setting) if part)

    @property
    def records(self) -> str:
        """Return the judged records in words, such as `held-out raw pairs`."""
        return f"held-out {self.view} {TASKS[self.task]}"

    @property
    def name(self) -> str:
        words = f"{self.variant} against {self.baseline} on {self.records}"
        return f"{self.subject}: {words}" if self.subject else words


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A question and its answer. `p_holm` is corrected for the `family` size of comparisons."""

    question: Question
    seeds: tuple[int | None, ...]
    verdict: str
    comparison: Comparison
    p_holm: float = 1.0
    family: int = 1

    @property
    def difference(self) -> str:
        return points(self.comparison.difference)

    @property
    def interval(self) -> str:
        return span(points, self.comparison.low, self.comparison.high)

    @property
    def evidence(self) -> str:
        """Return the p-value and the numbers of records, parts and seeds."""
        numbers = self.comparison
        seeds = "1 seed" if numbers.n_seeds == 1 else f"{numbers.n_seeds} seeds"
        parts = "1 part" if numbers.n_parts == 1 else f"{numbers.n_parts} parts"
        sample = f"{numbers.n_records} records of {parts}, {seeds}"
        return f"{_p_words(numbers.p_value)}; {sample}"

    @property
    def correction(self) -> str:
        return f"Holm's {_p_words(self.p_holm)}"

    @property
    def claim(self) -> str:
        """Return the verdict as a sentence without numbers."""
        question = self.question
        claim = SENTENCES[self.verdict].format(
            a=question.variant, b=question.baseline, what=question.records
        )
        return f"{question.subject}: {claim}" if question.subject else claim

    @property
    def numbers(self) -> str:
        return f"{self.difference} of accuracy ({interval_words(self.interval)}; {self.evidence})"

    @property
    def reservation(self) -> str:
        """Return why the claim may be wrong or what it lacks; "" if there is nothing to add."""
        chance = ""
        if self.verdict in ("better", "worse") and self.p_holm >= SIGNIFICANT:
            chance = f"Among {self.family} such comparisons it may be chance ({self.correction})."

        return " ".join(part for part in (chance, self.comparison.power_note) if part)

    @property
    def sentence(self) -> str:
        return f"{self.claim}: {self.numbers}. {self.reservation}".rstrip()

    def to_row(self) -> dict[str, Any]:
        """Return the row of verdicts.json."""
        answer = {
            "seeds": self.seeds,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "p_holm": self.p_holm,
        }
        return asdict(self.question) | answer | asdict(self.comparison)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A question that the finished runs cannot answer, and the reason."""

    question: Question
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Match:
    """The runs of a variant and of its baseline, in the order of the seeds that both finished."""

    model: str
    setting: str
    variant: str
    baseline: str
    seeds: tuple[int | None, ...]
    variant_runs: tuple[RunResult, ...]
    baseline_runs: tuple[RunResult, ...]


def findings(runs: Sequence[RunResult]) -> tuple[list[Finding], list[Refusal]]:
    """Compare every variant that trains on pairs with the baseline and with the control.

    Return the answers, raw pairs first, and the comparisons that failed. Runs are pooled over the
    seeds that both variants finished, so that only the data differ.
    """
    answers: list[Finding] = []
    refusals: list[Refusal] = []

    for match in _matches(runs):
        for task, view in _shared_task_views((*match.variant_runs, *match.baseline_runs)):
            question = Question(
                model=match.model,
                setting=match.setting,
                variant=match.variant,
                baseline=match.baseline,
                task=task,
                view=view,
            )
            # Two runs whose records differ must not cost the whole report.
            try:
                answers.append(_answer(question, match))
            except UserError as error:
                refusals.append(Refusal(question=question, reason=str(error)))

    return _correct_p_values(answers), refusals


def _matches(runs: Sequence[RunResult]) -> Iterator[_Match]:
    """Yield each variant with the baseline and the control that share a finished seed with it."""
    series = group_by_series(runs)

    for (model, setting, variant), variant_runs in series.items():
        for baseline in (BASELINE, CONTROL):
            baseline_runs = series.get((model, setting, baseline), {})
            seeds = tuple(seed for seed in variant_runs if seed in baseline_runs)
            if variant in (BASELINE, SINGLE, baseline) or not seeds:
                continue

            yield _Match(
                model=model,
                setting=setting,
                variant=variant,
                baseline=baseline,
                seeds=seeds,
                variant_runs=tuple(variant_runs[seed] for seed in seeds),
                baseline_runs=tuple(baseline_runs[seed] for seed in seeds),
            )


def _shared_task_views(runs: Sequence[RunResult]) -> list[tuple[Task, str]]:
    """Return the (task, view) that every run has ordinary predictions for, the raw view first."""
    ordinary = [
        {(p.task, p.view) for p in run.predictions if p.probe == Probe.NONE} for run in runs
    ]
    shared = [(task, view) for task, view in set.intersection(*ordinary) if task in TASKS]
    return sorted(shared, key=_position)


def by_task_view(answers: Sequence[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """Return (task, view) -> answers to the other questions than the main one.

    The tasks come in the order of TASKS, the raw view first.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}

    for finding in answers:
        question = finding.question
        if not question.main:
            groups.setdefault((question.task, question.view), []).append(finding)

    return {task_view: groups[task_view] for task_view in sorted(groups, key=_position)}


def _position(task_view: tuple[str, str]) -> tuple[int, bool, str]:
    """Return the sort key: the order of TASKS, then the raw view, then the views by name."""
    task, view = task_view
    return list(TASKS).index(task), view != "raw", view


def _answer(question: Question, match: _Match) -> Finding:
    """Compare the predictions of both variants. Raise UserError if their records differ."""
    task, view = Task(question.task), question.view

    comparison = compare(
        [run.answers(task, view) for run in match.variant_runs],
        [run.answers(task, view) for run in match.baseline_runs],
        seed=RESAMPLING_SEED,
    )
    return Finding(
        question=question,
        seeds=match.seeds,
        verdict=verdict(comparison),
        comparison=comparison,
    )


def _correct_p_values(answers: Sequence[Finding]) -> list[Finding]:
    """Return the findings with Holm's p, the main questions first.

    The main questions are one family and the others another: more questions cost the main ones
    nothing.
    """
    corrected: list[Finding] = []

    for main in (True, False):
        family = [finding for finding in answers if finding.question.main == main]
        p_values = holm([finding.comparison.p_value for finding in family])
        corrected += [
            replace(finding, p_holm=p_value, family=len(family))
            for finding, p_value in zip(family, p_values, strict=True)
        ]

    return corrected


def _p_words(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
