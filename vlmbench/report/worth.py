"""Is tuning worth it here? The verdict on tuned series against methods that train little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmbench.report.baseline_answers import FoldOf
from vlmbench.report.changes import Change, correct_changes
from vlmbench.report.figures import interval_words, list_names
from vlmbench.stats import Compared, Decided, Redrawn, Rule, compare
from vlmbench.stats.clusters import Floats, Folded
from vlmbench.stats.compare import UNKNOWN, Clusters
from vlmbench.system.text import counted
from vlmbench.types import LABELS, Prediction, UserError

BETTER = ("better", "slightly better")
WORSE = ("worse", "slightly worse")
WORTH, NOT_WORTH, LITTLE = "worth it", "not worth it", "worth little"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A tuned series, or a baseline: its decided answers, a sequence for each seed.

    `redrawn` are its thresholds with other validation parts; None without a calibration.
    `fold_of` is the fold of each record in a cross-validation.
    """

    name: str
    answers: Sequence[Sequence[Prediction]]
    redrawn: Redrawn | None = None
    fold_of: FoldOf = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """The verdict in a word, a sentence, and the changes of each series against each baseline."""

    word: str
    sentence: str
    changes: Mapping[tuple[str, str], Change]

    def to_row(self) -> dict[str, Any]:
        """Return plain values for verdicts.json."""
        rows = [
            {"series": series, "baseline": baseline} | change.to_row()
            for (series, baseline), change in self.changes.items()
        ]
        return {"verdict": self.word, "sentence": self.sentence, "comparisons": rows}


def worth(
    tuned: Sequence[Asked], baselines: Sequence[Asked], *, what: str, rule: Rule, level: float
) -> Worth:
    """Return whether tuning is worth it on records `what`.

    It is if a tuned series is better than every baseline, and it is not if a baseline is better
    than every tuned series. Such a claim needs each of its comparisons to hold (intersection-union
    test: Berger 1982), so nobody has to choose the best baseline by the test split. Holm's
    correction counts the series, or the baselines, that the claim may be about.

    Raise UserError if the answers are of different records.
    """
    changes = {
        (one.name, other.name): _change(one, other, rule) for one in tuned for other in baselines
    }
    by_series = _weakest(changes, 0, BETTER, level)
    by_baseline = _weakest(changes, 1, WORSE, level)

    best = [key for key, change in by_series.items() if change.word in BETTER]
    rivals = [key for key, change in by_baseline.items() if change.word in WORSE]
    if best:
        key, word = best[0], WORTH if by_series[best[0]].word == "better" else LITTLE
        names = list_names([series for series, _ in best])
        claim = f"Tuning is {word} here: {names} judges {what} better than every baseline"
    elif rivals:
        key, word = rivals[0], NOT_WORTH
        names = list_names([baseline for _, baseline in rivals])
        claim = f"Tuning is not worth it here: {names} judges {what} better than every tuned series"
    else:
        key, word = _nearest(changes), UNKNOWN
        claim = f"These runs do not tell whether tuning is worth it on {what}"

    return Worth(
        word=word,
        sentence=_sentence(claim, key, changes[key], rule),
        changes=changes,
    )


def _change(one: Asked, other: Asked, rule: Rule) -> Change:
    """Return the change from a baseline, which no seed would change, to a tuned series."""
    baseline = other.answers[0]
    order = [prediction.id for prediction in baseline]
    rows = []
    for predictions in one.answers:
        by_id = {prediction.id: prediction for prediction in predictions}
        if set(by_id) != set(order):
            raise UserError(
                f"{one.name} and {other.name} answered different records; evaluate the run again"
            )
        rows.append([by_id[record] for record in order])

    if one.fold_of != other.fold_of:
        raise UserError(
            f"{one.name} and {other.name} tested the same parts in different folds; evaluate the "
            "run again"
        )

    parts = [each.cluster for each in baseline]
    clusters: Clusters = parts
    if other.fold_of is not None:
        clusters = Folded(clusters=parts, folds=[other.fold_of[record] for record in order])
    positive = np.array([each.expected == LABELS[each.task][1] for each in baseline])
    comparison = compare(
        _outcomes(rows, one.redrawn, positive, rule.figure),
        _outcomes([baseline], other.redrawn, positive, rule.figure),
        clusters=clusters,
        figure=rule.figure,
        positive=positive,
        costs=rule.costs,
        fixed=True,
    )
    return Change(comparison=comparison)


def _outcomes(
    rows: Sequence[Sequence[Prediction]],
    redrawn: Redrawn | None,
    positive: NDArray[np.bool_],
    figure: Compared,
) -> Floats | Decided:
    margins = [[each.margin for each in row] for row in rows]
    has_scores = all(margin is not None for row in margins for margin in row)
    scores = np.array(margins if has_scores else np.zeros((0, 0)), dtype=np.float64)
    if figure is Compared.AUROC:
        if not has_scores:
            raise UserError("AUROC needs scores; set eval.method=score and evaluate the runs again")
        return scores

    right = np.array([[each.correct for each in row] for row in rows], dtype=np.float64)
    if redrawn is None or not has_scores:
        return right
    return redrawn.decide(right, scores, positive)


def _weakest(
    changes: Mapping[tuple[str, str], Change],
    position: int,
    wanted: Sequence[str],
    level: float,
) -> dict[tuple[str, str], Change]:
    """Return for each series (0) or baseline (1) its comparison that supports the claim least.

    The comparisons are corrected by Holm, as one family.
    """
    weakest: dict[str, tuple[str, str]] = {}
    sign = 1 if wanted is BETTER else -1
    for key, change in changes.items():
        current = weakest.setdefault(key[position], key)
        if _support(change, sign) < _support(changes[current], sign):
            weakest[key[position]] = key

    keys = list(weakest.values())
    corrected = correct_changes([changes[key] for key in keys], level)
    return dict(zip(keys, corrected, strict=True))


def _support(change: Change, sign: int) -> tuple[float, float]:
    """Return how much a comparison speaks for a claim, and by how large a difference.

    The first is 1 - p, below 0 if it speaks against the claim.
    """
    certainty, gain = 1 - change.comparison.p_value, sign * _gain(change)
    return (certainty if gain > 0 else -certainty - 1e-9), gain


def _gain(change: Change) -> float:
    comparison = change.comparison
    lower = comparison.figure.lower_is_better
    return -comparison.difference if lower else comparison.difference


def _nearest(changes: Mapping[tuple[str, str], Change]) -> tuple[str, str]:
    """Return the first series and the baseline that does best against it."""
    first = next(iter(changes))[0]
    own = [key for key in changes if key[0] == first]
    return min(own, key=lambda key: _gain(changes[key]))


def _sentence(claim: str, key: tuple[str, str], change: Change, rule: Rule) -> str:
    comparison = change.comparison
    seeds = comparison.seeds[0]
    parts = f"{counted(comparison.n_records, 'record')} of {counted(comparison.n_clusters, 'part')}"
    folds = None if comparison.spread is None else comparison.spread.folds
    pooled = f", {counted(round(folds.freedom) + 1, 'fold')}" if folds else ""
    details = f"{interval_words(change.interval)}; {parts}, {counted(seeds, 'seed')}{pooled}"
    numbers = f"{key[0]} against {key[1]} {change.difference} of {rule.words} ({details})"

    reasons = []
    if comparison.is_one_seed:
        reasons.append("One seed gives no verdict.")
    if comparison.is_too_small:
        reasons.append(
            f"The records tell as much as {comparison.effective_clusters:.1f} equally large parts; "
            "a verdict needs at least 10."
        )
    return " ".join([f"{claim}: {numbers}.", *reasons])
