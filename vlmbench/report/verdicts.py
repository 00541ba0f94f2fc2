"""Compare each variant with its baseline, and word the verdict by rule from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vlmbench.report.changes import (
    Change,
    change,
    correct_changes,
    error_words,
    in_order,
    p_words,
)
from vlmbench.report.decisions import answers_of, one_label_sentences
from vlmbench.report.figures import interval_words
from vlmbench.report.questions import (
    CONTROL,
    Match,
    Question,
    matches,
    position,
    seed_words,
)
from vlmbench.report.runs import RunResult
from vlmbench.runs.plan import PlannedRun
from vlmbench.stats import Compared, Comparison, Rule, rule_of
from vlmbench.stats.compare import LEVEL, UNKNOWN
from vlmbench.system.text import counted
from vlmbench.types import Task, UserError

BETTER = ("better", "slightly better")
DIFFERENT = (*BETTER, "worse", "slightly worse")

# Verdict -> its sentence about variant {a} and baseline {b}.
SENTENCES: Mapping[str, str] = {
    "better": "{a} judges {what} better than {b}",
    "worse": "{a} judges {what} worse than {b}",
    "slightly better": "{a} judges {what} better than {b}, by less than {margin}",
    "slightly worse": "{a} judges {what} worse than {b}, by less than {margin}",
    UNKNOWN: "These runs do not tell whether {a} judges {what} better or worse than {b}",
}
SAME = "{a} and {b} differ by no more than {margin} of {figure} on {what}"
OTHER_ERRORS = "different errors"
ONE_SEED = {
    True: "The trained models at hand differ on {what}; one seed does not tell whether {a} judges "
    "them better or worse than {b}",
    False: "The trained models at hand are not told apart on {what}; one seed does not tell "
    "whether {a} judges them better or worse than {b}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A question and its answer.

    `misses` and `overkill` are the two kinds of errors, with verdicts of their own. `control` is
    the verdict against the control, where one ran. `one_label` names runs that give all records one
    label; `account` the seeds that one arm lacks; `pruned` counts pruned runs, `folds` those of
    a cross-validation.
    """

    question: Question
    rule: Rule
    seeds: tuple[tuple[int | None, ...], tuple[int | None, ...]]
    main: Change
    misses: Change | None = None
    overkill: Change | None = None
    control: str | None = None
    one_label: tuple[str, ...] = ()
    account: str = ""
    pruned: int = 0
    uncalibrated: str = ""
    folds: int = 0

    @property
    def comparison(self) -> Comparison:
        return self.main.comparison

    @property
    def own_verdict(self) -> str:
        """The verdict on the figure, without the control."""
        if self.pruned:
            return UNKNOWN
        return self.main.word

    @property
    def verdict(self) -> str:
        """The verdict in a word; the control's verdict, if it ran, limits a "better"."""
        if self.control is not None and self.own_verdict in BETTER and self.control not in BETTER:
            return UNKNOWN
        return OTHER_ERRORS if self.has_other_errors else self.own_verdict

    @property
    def has_other_errors(self) -> bool:
        """Whether the figure is the same, and misses or overkill are not."""
        return self.own_verdict not in (*DIFFERENT, UNKNOWN) and self._errors_differ

    @property
    def _errors_differ(self) -> bool:
        errors = (self.misses, self.overkill)
        return not self.pruned and any(one.word in DIFFERENT for one in errors if one is not None)

    @property
    def difference(self) -> str:
        return self.main.difference

    @property
    def interval(self) -> str:
        return self.main.interval

    @property
    def axis_labels(self) -> tuple[str, str, str]:
        """The words under the left end, the middle and the right end of the interval's axis."""
        ends = ("better", "worse") if self.rule.figure.lower_is_better else ("worse", "better")
        return ends[0], "no difference", ends[1]

    @property
    def evidence(self) -> str:
        """Return the p-value and the numbers of records, parts and seeds."""
        numbers = self.comparison
        parts = counted(numbers.n_clusters, "part")
        if numbers.effective_clusters < 0.9 * numbers.n_clusters:
            parts += f" that tell as much as {numbers.effective_clusters:.1f} equally large ones"
        folds = f", {self.folds} folds" if self.folds else ""
        return (
            f"{p_words(numbers.p_value)}; {counted(numbers.n_records, 'record')} of {parts}, "
            f"{seed_words(self.seeds)}{folds}"
        )

    @property
    def correction(self) -> str:
        return f"Holm's {p_words(self.main.p_holm)}"

    @property
    def claim(self) -> str:
        """Return the verdict as a sentence without numbers, after what must be known first."""
        first = [f"{sentence}." for sentence in self.one_label]
        subject = self.question.subject and f"{self.question.subject}: "
        return " ".join([*first, f"{subject}{self._claim()}"])

    def _claim(self) -> str:
        question, comparison = self.question, self.comparison
        names = {
            "a": question.variant,
            "b": question.baseline,
            "what": question.records,
            "margin": comparison.margin_words,
            "figure": self.rule.words,
        }
        if comparison.is_one_seed and not comparison.is_too_small:
            return ONE_SEED[comparison.models_differ].format(**names)

        words = SENTENCES.get(self.own_verdict, SAME).format(**names)
        if self.has_other_errors:
            return f"{words}, but make different errors"
        if self.own_verdict == UNKNOWN and self._errors_differ:
            return f"{words}, but the two make different errors"
        if self.control is None or self.own_verdict not in BETTER:
            return words
        if self.control in BETTER:
            return f"{words}, and better than {CONTROL}: the records help, not their number alone"
        return (
            f"{words}, but these runs do not show that it is better than {CONTROL}, which trains "
            "on as many tokens"
        )

    @property
    def numbers(self) -> str:
        details = f"{interval_words(self.interval)}; {self.evidence}"
        return f"{self.difference} of {self.rule.words} ({details})"

    @property
    def errors(self) -> str:
        """Return what happens to misses and to overkill, with a verdict each; "" if unknown."""
        changes = (("misses", self.misses), ("overkill", self.overkill))
        return "; ".join(
            f"{name} {change.numbers}: {error_words(change, pruned=self.pruned)}"
            for name, change in changes
            if change is not None
        )

    @property
    def reservation(self) -> str:
        """Return why the claim may be wrong or what it lacks; "" if there is nothing to add."""
        comparison, main = self.comparison, self.main
        reasons = [self.account and f"{self.account}."]
        if self.pruned:
            reasons.append("Pruning keeps the runs that do better, so no verdict follows.")
        if comparison.is_too_small:
            reasons.append(
                f"The records tell as much as {comparison.effective_clusters:.1f} equally large "
                "parts; a verdict needs at least 10."
            )
        if comparison.p_value < LEVEL <= main.p_holm:
            reasons.append(
                f"Among {main.family} such comparisons it may be chance ({self.correction})."
            )
        elif main.level <= main.p_holm < LEVEL:
            reasons.append(
                f"This look counts as different only below p = {main.level:.3g}, because looks "
                "share 5 % of false verdicts."
            )
        if self.uncalibrated:
            reasons.append(f"Labels are the models' own, without a threshold: {self.uncalibrated}.")
        return " ".join(part for part in (*reasons, comparison.power_note) if part)

    @property
    def sentence(self) -> str:
        errors = self.errors and f"{self.errors[0].upper()}{self.errors[1:]}."
        return " ".join(
            part for part in (f"{self.claim}: {self.numbers}.", errors, self.reservation) if part
        )

    def to_row(self) -> dict[str, Any]:
        """Return the row of verdicts.json."""
        variant, baseline = self.seeds
        answer = {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "seeds_of_variant": variant,
            "seeds_of_baseline": baseline,
            "against_control": self.control,
            "one_label": self.one_label,
            "pruned": self.pruned,
            "effective_clusters": self.comparison.effective_clusters,
            "misses": None if self.misses is None else self.misses.to_row(),
            "overkill": None if self.overkill is None else self.overkill.to_row(),
        }
        question = asdict(self.question) | {"axis": str(self.question.axis)}
        return question | self.main.to_row() | answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A question that the finished runs cannot answer, and the reason."""

    question: Question
    reason: str


def findings(
    runs: Sequence[RunResult], *, level: float = LEVEL, missing: Sequence[PlannedRun] = ()
) -> tuple[list[Finding], list[Refusal]]:
    """Compare every variant that trains on pairs with the baseline and with the control.

    Return the answers, raw pairs first, and the comparisons that failed. Settings are compared with
    the first one if all runs have the same data variant. `level` is the share of false
    verdicts that this look may spend. `missing` are planned runs that did not start.
    """
    answers: list[Finding] = []
    refusals: list[Refusal] = []

    for match in matches(runs, missing):
        # Two runs whose records differ must not cost the whole report.
        try:
            answers.append(answer(match, rule_of(match.runs[0].config)))
        except UserError as error:
            refusals.append(Refusal(question=match.question, reason=str(error)))

    return _with_controls(_correct(answers, level)), refusals


def answer(match: Match, rule: Rule) -> Finding:
    """Compare the answers of both arms. Raise UserError if their records differ."""
    task, view = Task(match.question.task), match.question.view
    variant = answers_of(match.variant_runs, task, view, rule)
    baseline = in_order(answers_of(match.baseline_runs, task, view, rule), variant.ids)
    if variant.positive.all() or not variant.positive.any():
        rule = Rule(figure=Compared.ACCURACY)

    both = bool(variant.positive.any() and not variant.positive.all())
    errors = (Compared.MISSES, Compared.OVERKILL) if both else ()
    changes = {each: change(each, variant, baseline, rule) for each in (rule.figure, *errors)}
    said = one_label_sentences((*variant.one_label, *baseline.one_label))

    return Finding(
        question=match.question,
        rule=rule,
        seeds=match.seeds,
        main=changes[rule.figure],
        misses=changes.get(Compared.MISSES),
        overkill=changes.get(Compared.OVERKILL),
        one_label=said if both else (),
        account=match.account,
        pruned=match.pruned,
        folds=len(match.runs[0].folds),
        uncalibrated="; ".join(
            sorted({arm.uncalibrated for arm in (variant, baseline) if arm.uncalibrated})
        ),
    )


def by_task_view(answers: Sequence[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """Return (task, view) -> answers to the other questions than the main one.

    The tasks come in the order of TASKS, the raw view first.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}

    for finding in answers:
        question = finding.question
        if not question.main:
            groups.setdefault((question.task, question.view), []).append(finding)

    return {task_view: groups[task_view] for task_view in sorted(groups, key=position)}


def _correct(answers: Sequence[Finding], level: float) -> list[Finding]:
    """Return the findings with Holm's p, the main questions first.

    The main questions are one family and the others another: more questions cost the main ones
    nothing. Misses and overkill of a family are a family of their own.
    """
    corrected: list[Finding] = []

    for is_main in (True, False):
        family = [finding for finding in answers if finding.question.main == is_main]
        mains = correct_changes([finding.main for finding in family], level)
        pairs = [(finding.misses, finding.overkill) for finding in family]
        errors = iter(correct_changes([one for pair in pairs for one in pair if one], level))
        corrected += [
            replace(
                finding,
                main=main,
                misses=next(errors) if finding.misses else None,
                overkill=next(errors) if finding.overkill else None,
            )
            for finding, main in zip(family, mains, strict=True)
        ]

    return corrected


def _with_controls(answers: Sequence[Finding]) -> list[Finding]:
    """Return the findings; those against the baseline with the verdict against the control."""

    controls = {
        replace(finding.question, baseline=""): finding.own_verdict
        for finding in answers
        if finding.question.baseline == CONTROL
    }
    return [
        finding
        if finding.question.baseline == CONTROL
        else replace(finding, control=controls.get(replace(finding.question, baseline="")))
        for finding in answers
    ]
