"""The first step: do comparison records lower the held-out loss, and are they the reason?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.stats import t

from vlmbench.report.figures import span
from vlmbench.report.questions import BASELINE, CONTROL, SINGLE
from vlmbench.report.runs import RunResult
from vlmbench.report.series import Series
from vlmbench.report.step import StepAnswer
from vlmbench.report.verdicts import Finding
from vlmbench.stats.clusters import Floats
from vlmbench.system.text import counted
from vlmbench.types import Task

CONTROL_CONCLUSIONS = {
    "better": "the records themselves help, not only their number",
    "worse": "as many more records of the old kind help more",
}
NO_CONCLUSION = "nothing shows that it is the records rather than their number"


def loss_answers(series: Sequence[Series]) -> Iterator[StepAnswer]:
    """Yield the change of the last held-out loss from the baseline to each variant.

    Both have the same model and setting, and the loss is measured on the same records.
    """
    for baseline in series:
        for variant in series:
            same_model = (variant.model, variant.setting) == (baseline.model, baseline.setting)
            is_variant = variant.data not in (BASELINE, SINGLE)
            if same_model and baseline.data == BASELINE and is_variant:
                yield from _loss_change(variant, baseline)


def _loss_change(variant: Series, baseline: Series) -> Iterator[StepAnswer]:
    """Yield the mean change over the seeds that both have; nothing without such a seed."""
    losses, baseline_losses = _last_losses(variant), _last_losses(baseline)
    shared = [seed for seed in losses if seed in baseline_losses]
    changes = np.array([losses[seed] - baseline_losses[seed] for seed in shared])

    if not len(changes):
        return

    change = float(changes.mean())
    margin = _margin(changes) if len(changes) > 1 else None
    yield StepAnswer(
        about=variant.name,
        figure=_signed(change),
        interval=_interval_words(change, margin),
        basis=counted(len(changes), "seed"),
        conclusion=_loss_words(change, margin, baseline.data),
    )


def _margin(changes: Floats) -> float:
    """Return half the 95 % interval of a mean of several changes, by Student's t."""
    quantile = float(t.ppf(0.975, len(changes) - 1))
    deviation = float(changes.std(ddof=1))
    margin: float = quantile * deviation / len(changes) ** 0.5
    return margin


def _interval_words(change: float, margin: float | None) -> str:
    if margin is None:
        return ""

    return span(_signed, change - margin, change + margin)


def _loss_words(change: float, margin: float | None, baseline: str) -> str:
    direction = "lower" if change < 0 else "higher"
    words = f"the last held-out loss is {direction} than that of {baseline}"

    if change == 0:
        return f"the last held-out loss is that of {baseline}"
    if margin is None:
        return f"{words}, with one seed; another seed may differ"
    if abs(change) <= margin:
        return f"the last held-out loss cannot be told apart from that of {baseline}"
    return words


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _last_losses(series: Series) -> Mapping[int | None, float]:
    """Return seed -> last held-out loss, for the runs that logged one; the mean of all folds."""
    losses: dict[int | None, float] = {}

    for run in series.runs:
        found = [_last_loss(fold) for fold in run.folds or (run,)]
        known = [loss for loss in found if loss is not None]
        if len(known) == len(found):
            losses[run.seed] = sum(known) / len(known)

    return losses


def _last_loss(run: RunResult) -> float | None:
    logged = [row["eval_loss"] for row in run.log if "eval_loss" in row]
    return float(logged[-1]) if logged and logged[-1] is not None else None


def control_answers(findings: Sequence[Finding]) -> Iterator[StepAnswer]:
    """Yield how each variant compares with the control on raw pairs."""
    for finding in findings:
        question = finding.question
        on_raw_pairs = (question.task, question.view) == (Task.JUDGE_PAIR, "raw")
        if question.baseline != CONTROL or not on_raw_pairs:
            continue

        yield StepAnswer(
            about=f"{question.subject} · {question.variant} against {CONTROL}, raw pairs",
            figure=finding.difference,
            interval=finding.interval,
            basis=finding.evidence,
            conclusion=CONTROL_CONCLUSIONS.get(finding.verdict, NO_CONCLUSION),
        )
