"""Thresholds and promises in words: what a reader of decisions must know."""

from __future__ import annotations

from collections.abc import Iterator

from vlmbench.stats import (
    Basis,
    Calibration,
    Promise,
    Rule,
    Source,
    Threshold,
    measure_errors,
)
from vlmbench.stats.clusters import MIN_EFFECTIVE
from vlmbench.types import Estimate

# In words: the records that a figure of decisions is measured on.
MEASURED_ON = {
    Source.TEST: "test records",
    Source.UNFOLLOWED: "validation records of parts that training did not follow",
    Source.VALIDATION: "validation records",
    Source.PLANTED: "validation records with planted defects",
}


def rule_note(
    title: str, basis: Basis, calibration: Calibration, rule: Rule, prevalence: float | None
) -> str:
    """Return how the run's rule decides, and its errors on the records of `basis`."""
    misses, overkill = measure_errors(basis, calibration, rule)
    limit = rule.limit_score(calibration, prevalence)
    how = f"the threshold is {limit:.3g}, the best for {rule.words} by the calibration"
    if calibration.is_blind:
        how = "the likelier label decides (0.5 of the model's own probability)"
    return (
        f"{title}: {how}: misses {percent(misses)}, overkill {percent(overkill)}, measured on "
        f"{MEASURED_ON[basis.source]}"
    )


def cost_notes(title: str, threshold: Threshold) -> Iterator[str]:
    """Yield the threshold of least cost, what it costs, and whether that is cheaper."""
    cost, saving = threshold.cost, threshold.saving
    yield (
        f"{title}: the threshold is {threshold.value:.3g}; the expected cost is {cost.value:.3g} a "
        f"record (95 % interval {cost.low:.3g} to {cost.high:.3g}, "
        f"n = {cost.n} of {cost.n_parts} parts, {MEASURED_ON[threshold.measured_on]}), "
        f"misses {percent(threshold.miss_rate)}, overkill {percent(threshold.overkill_rate)}"
    )
    if not threshold.is_cheaper:
        yield (
            f"{title}: this cost cannot be told apart from that of a rule without a model: "
            f"{threshold.rule_without_model} costs {threshold.cost_without_model:.3g} a record, so "
            f"the threshold saves {saving.value:.3g} "
            f"(95 % interval {saving.low:.3g} to {saving.high:.3g}). "
            "These records are too few, or the model too weak"
        )


def promise_note(title: str, given: Promise) -> str:
    """Return the promised rates, and how much is to be looked at for them."""
    return (
        f"{title}: of new abnormal parts at most {100 * given.max_miss:g} % are passed, and of new "
        f"normal parts at most {100 * given.max_overkill:g} % are stopped, on average over sets of "
        f"{given.n_abnormal} abnormal and {given.n_normal} normal parts like these "
        f"{MEASURED_ON[given.measured_on]}; the promise holds while parts, camera and light stay "
        f"the same. To be looked at: {percent(given.looked_at_abnormal)} of the abnormal and "
        f"{percent(given.looked_at_normal)} of the normal ones"
    )


def basis_notes(title: str, basis: Basis, figures: str) -> Iterator[str]:
    """Yield from which records `figures` come, unless these are enough test records."""
    verb, them = ("are", "them") if " and " in figures else ("is", "it")
    if basis.chose:
        yield (
            f"{title}: {figures} {verb} too low: the validation records that give {them} chose the "
            f"best of {basis.checkpoints} checkpoints. They are used because {basis.why_not_test}"
        )
    elif basis.source is not Source.TEST:
        yield (
            f"{title}: {figures} {verb} measured on {MEASURED_ON[basis.source]}, which chose no "
            f"checkpoint, because {basis.why_not_test}"
        )
    if basis.is_small:
        yield (
            f"{title}: {figures} {verb} uncertain: {len(basis.records)} records of "
            f"{basis.n_parts} parts tell as much as {basis.effective_parts:.3g} equal parts of the "
            f"rarer label, and {MIN_EFFECTIVE:g} are needed"
        )


def percent(estimate: Estimate) -> str:
    """Return a rate with its interval, n and parts."""
    return (
        f"{100 * estimate.value:.1f} % "
        f"({100 * estimate.low:.1f} to {100 * estimate.high:.1f} %, "
        f"n = {estimate.n} of {estimate.n_parts} parts)"
    )
