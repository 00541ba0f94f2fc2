"""Sentences and facts about runs that no table of metrics holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmbench.report.figures import MISSING_FIGURE, Figure, figure, percent, plain
from vlmbench.report.folds import gaps
from vlmbench.report.questions import BASELINE
from vlmbench.report.runs import RunResult
from vlmbench.report.verdicts import Finding, Refusal
from vlmbench.runs.folder import State
from vlmbench.runs.identity import fold_of
from vlmbench.stats import Compared
from vlmbench.types import Task

FEW = 3  # so many runs are named one by one, even if these are all runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """A warning to readers of the figures; `about` names the runs or comparisons it concerns."""

    text: str
    about: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The last logged values of a run's training."""

    label: str
    step: str
    loss: str
    eval_loss: str
    eval_balanced_accuracy: str


STATE_REASONS = {
    str(State.PRUNED): ": its training was stopped, because finished runs had done better by then"
}


def cautions(runs: Sequence[RunResult], refusals: Sequence[Refusal]) -> list[Caution]:
    """Return each caution once: runs without figures, failed comparisons, warnings and notes."""
    about: dict[str, list[str]] = {}

    for run in runs:
        if not run.finished:
            reason = f": {run.error}" if run.error else STATE_REASONS.get(run.state, "")
            about.setdefault(f"No figures from a {run.state} run{reason}", []).append(run.label)

    for gap in gaps(runs):
        about.setdefault(f"Folds are missing: {gap.sentence}", []).append(gap.name)

    for refusal in refusals:
        text = f"No comparison: {refusal.reason}"
        about.setdefault(text, []).append(refusal.question.name)

    for run in runs:
        warnings = run.metrics.get("data", {}).get("warnings", ())
        notes = run.metrics.get("notes", ())
        for text in (*warnings, *notes):
            about.setdefault(str(text), []).append(run.label)

    return [
        Caution(text=text, about=tuple(dict.fromkeys(labels))) for text, labels in about.items()
    ]


def outcome(runs: Sequence[RunResult], findings: Sequence[Finding]) -> str:
    """Return why the main question has no answer; "" if it has one."""
    if any(finding.question.main for finding in findings):
        return ""

    if not any(run.finished for run in runs):
        return "No run has finished, so there is no result yet."

    return (
        "These runs do not answer the main question. It needs a finished run of "
        f"{BASELINE} and a finished run of another variant, with the same model, setting and "
        "seed, and with predictions on held-out raw pairs."
    )


def threshold_notes(findings: Sequence[Finding]) -> list[str]:
    """Return that verdicts decide by other thresholds than the tables of figures, if they do."""
    decided = [each for each in findings if each.rule.figure is not Compared.AUROC]
    if all(each.uncalibrated for each in decided):
        return []

    return [
        "Verdicts decide at each run's calibrated threshold. The tables count the likelier label, "
        "by the model's own 0.5, so both can differ."
    ]


def guessing_notes(runs: Sequence[RunResult]) -> list[str]:
    """Return a sentence on runs that may be guessing, and a sentence on runs that are worse.

    The rule is the interval of the balanced accuracy on held-out raw pairs.
    """
    labels: dict[str, list[str]] = {}

    for run in runs:
        if fold_of(run.config) is not None:
            continue  # one fold tests few parts

        accuracy = _pair_figure(run, "balanced_accuracy")
        if accuracy.low is None or accuracy.high is None or accuracy.low > 0.5:
            continue

        verdict = "Not told apart from guessing" if accuracy.high >= 0.5 else "Worse than guessing"
        labels.setdefault(verdict, []).append(f"{run.label} ({accuracy.interval})")

    return [
        f"{verdict}, by the interval of their balanced accuracy: {_all_or_named(names, len(runs))}."
        for verdict, names in labels.items()
    ]


def _all_or_named(labels: Sequence[str], number: int) -> str:
    return f"all {number} runs" if len(labels) == number > FEW else ", ".join(labels)


def _pair_figure(run: RunResult, name: str) -> Figure:
    return figure(name, run.scores.get(Task.JUDGE_PAIR, {}).get("raw", {}).get(name))


def progress(runs: Sequence[RunResult]) -> list[Progress]:
    """Return a row for each run with a training log."""
    return [
        Progress(
            label=run.label,
            step=str(run.log[-1].get("step", MISSING_FIGURE)),
            loss=_last_value(run, "loss"),
            eval_loss=_last_value(run, "eval_loss"),
            eval_balanced_accuracy=_last_value(run, "eval_balanced_accuracy", share=True),
        )
        for run in runs
        if run.log
    ]


def _last_value(run: RunResult, key: str, *, share: bool = False) -> str:
    """Return the last logged value of `key` in words; a dash if there is none."""
    values = [row[key] for row in run.log if row.get(key) is not None]
    if not values:
        return MISSING_FIGURE

    return percent(values[-1]) if share else plain(values[-1])
