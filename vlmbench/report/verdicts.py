"""Each data variant against its baseline, in words that follow from the numbers by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vlmbench.report.cells import Cell, by_series
from vlmbench.report.figures import interval_words, points, span
from vlmbench.stats import Comparison, compare, holm, verdict
from vlmbench.types import Probe, Task, UserError

BASELINE = "without_comparison"
CONTROL = "matched_control"  # the same number of trained tokens: tells "comparison records" from "more records"
SINGLE = "single"  # trains on no pair at all, so it is not compared on them
# Where sides are compared, in this order -> what is judged there.
TASKS: Mapping[str, str] = {
    Task.JUDGE_PAIR: "pairs",
    Task.JUDGE_LINK: "link pairs",
    Task.JUDGE_SINGLE: "single pictures",
    Task.COMPARE_VIEWS: "pairs of views",
    Task.COMPARE_SHAPES: "pairs of shapes",
}
SIGNIFICANT = 0.05
RESAMPLING_SEED = 0  # the same verdict from the same predictions

# Verdict -> what it says of variant {a} and baseline {b}.
SENTENCES: Mapping[str, str] = {
    "better": "{a} judges {what} better than {b}",
    "worse": "{a} judges {what} worse than {b}",
    "no difference larger than 2 points": "{a} and {b} differ by no more than 2 points on {what}",
    "not enough data to tell": "These runs do not tell whether {a} judges {what} better or worse than {b}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One variant against one baseline of the same model and setting, on one task and view."""

    model: str
    setting: str
    variant: str
    baseline: str
    task: str
    view: str

    @property
    def main(self) -> bool:
        """Whether this is the question that the experiment was made for."""
        return (self.task, self.view, self.baseline) == (Task.JUDGE_PAIR, "raw", BASELINE)

    @property
    def subject(self) -> str:
        return " · ".join(part for part in (self.model, self.setting) if part)

    @property
    def what(self) -> str:
        return f"held-out {self.view} {TASKS[self.task]}"

    @property
    def name(self) -> str:
        about = f"{self.variant} against {self.baseline} on {self.what}"
        return f"{self.subject}: {about}" if self.subject else about


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A question and its answer. `p_holm` is corrected for the number of comparisons in its family."""

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
        """What the difference rests on."""
        c = self.comparison
        seeds = "1 seed" if c.n_seeds == 1 else f"{c.n_seeds} seeds"
        return f"{_p(c.p_value)}; {c.n_records} records of {c.n_groups} parts, {seeds}"

    @property
    def correction(self) -> str:
        return f"Holm's {_p(self.p_holm)}"

    @property
    def claim(self) -> str:
        """What the verdict says, without numbers."""
        q = self.question
        claim = SENTENCES[self.verdict].format(a=q.variant, b=q.baseline, what=q.what)
        return f"{q.subject}: {claim}" if q.subject else claim

    @property
    def numbers(self) -> str:
        return f"{self.difference} of accuracy ({interval_words(self.interval)}; {self.evidence})"

    @property
    def reservation(self) -> str:
        """What keeps the claim from being the last word; "" where nothing does."""
        chance = ""
        if self.verdict in ("better", "worse") and self.p_holm >= SIGNIFICANT:
            chance = f"Among {self.family} such comparisons it may be chance ({self.correction})."
        return " ".join(part for part in (chance, self.comparison.power_note) if part)

    @property
    def sentence(self) -> str:
        return f"{self.claim}: {self.numbers}. {self.reservation}".rstrip()

    def to_row(self) -> dict[str, Any]:
        """The row of verdicts.json."""
        answer = {"seeds": self.seeds, "verdict": self.verdict, "sentence": self.sentence, "p_holm": self.p_holm}
        return asdict(self.question) | answer | asdict(self.comparison)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A question that two finished sides cannot answer, and why."""

    question: Question
    reason: str


def findings(cells: Sequence[Cell]) -> tuple[list[Finding], list[Refusal]]:
    """Every variant that trains on pairs against the baseline, and against the control where there is one; raw first.

    Seeds are pooled: those that both sides have finished, so that the two sides differ in the data alone.
    """
    found: list[Finding] = []
    refused: list[Refusal] = []
    sides = by_series(cells)
    for (model, setting, variant), cells_a in sides.items():
        for baseline in (BASELINE, CONTROL):
            cells_b = sides.get((model, setting, baseline), {})
            seeds = tuple(seed for seed in cells_a if seed in cells_b)
            if variant in (BASELINE, SINGLE, baseline) or not seeds:
                continue
            a, b = [cells_a[seed] for seed in seeds], [cells_b[seed] for seed in seeds]
            for task, view in _places(a + b):
                question = Question(
                    model=model, setting=setting, variant=variant, baseline=baseline, task=task, view=view
                )
                try:
                    found.append(_answer(question, seeds, a, b))
                except UserError as error:  # one pair of cells that do not match must not cost the report
                    refused.append(Refusal(question=question, reason=str(error)))
    return _corrected(found), refused


def _places(cells: Sequence[Cell]) -> list[tuple[Task, str]]:
    """The tasks and views that every one of the cells has predictions on, the raw view first."""
    ordinary = ({(p.task, p.view) for p in cell.predictions if p.probe == Probe.NONE} for cell in cells)
    shared = [(task, view) for task, view in set.intersection(*ordinary) if task in TASKS]
    return sorted(shared, key=_position)


def by_place(found: Sequence[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """(task, view) -> the answers to questions other than the main ones; the tasks in the order of TASKS, raw first."""
    places: dict[tuple[str, str], list[Finding]] = {}
    for finding in found:
        if not finding.question.main:
            places.setdefault((finding.question.task, finding.question.view), []).append(finding)
    return {place: places[place] for place in sorted(places, key=_position)}


def _position(place: tuple[str, str]) -> tuple[int, bool, str]:
    task, view = place
    return list(TASKS).index(task), view != "raw", view


def _answer(question: Question, seeds: tuple[int | None, ...], a: Sequence[Cell], b: Sequence[Cell]) -> Finding:
    task, view = Task(question.task), question.view
    answers_a, answers_b = ([cell.answers(task, view) for cell in side] for side in (a, b))
    comparison = compare(answers_a, answers_b, seed=RESAMPLING_SEED)
    return Finding(question=question, seeds=seeds, verdict=verdict(comparison), comparison=comparison)


def _corrected(found: Sequence[Finding]) -> list[Finding]:
    """The main questions are one family and the others another, so that looking further costs the main ones nothing."""
    corrected: list[Finding] = []
    for main in (True, False):
        family = [finding for finding in found if finding.question.main == main]
        p_values = holm([finding.comparison.p_value for finding in family])
        corrected += [replace(f, p_holm=p, family=len(family)) for f, p in zip(family, p_values, strict=True)]
    return corrected


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
