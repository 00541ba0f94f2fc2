"""The difference of one figure between two arms, corrected for its family, with its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vlmbench.report.decisions import Answers
from vlmbench.report.figures import interval_words, plain, points, span
from vlmbench.stats import Compared, Comparison, Folded, Rule, compare, holm
from vlmbench.stats.compare import LEVEL, UNKNOWN, Clusters
from vlmbench.system.text import counted
from vlmbench.types import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The difference of one figure, and the verdict on it.

    `p_holm` and `equivalence_holm` are corrected for the `family` size of comparisons. A verdict
    needs them below `level`.
    """

    comparison: Comparison
    p_holm: float = 1.0
    equivalence_holm: float = 1.0
    family: int = 1
    level: float = LEVEL

    @property
    def word(self) -> str:
        return self.comparison.verdict(
            p_value=self.p_holm, equivalence_p=self.equivalence_holm, level=self.level
        )

    @property
    def why_unknown(self) -> str:
        """The reason for no verdict although the interval excludes 0; "" where it does not."""
        comparison = self.comparison
        if comparison.p_value >= LEVEL:
            return ""
        if comparison.is_one_seed:
            return " by one seed"
        if comparison.is_too_small:
            return " by so few parts"
        if self.p_holm < LEVEL:
            return f" below this look's p = {self.level:.3g}"
        return f" among {counted(self.family, 'comparison')} (Holm's {p_words(self.p_holm)})"

    @property
    def difference(self) -> str:
        return write_change(self.comparison.figure, self.comparison.difference)

    @property
    def interval(self) -> str:
        low, high = self.comparison.low, self.comparison.high
        return span(lambda value: write_change(self.comparison.figure, value), low, high)

    @property
    def numbers(self) -> str:
        return f"{self.difference} ({interval_words(self.interval)})"

    def to_row(self) -> dict[str, Any]:
        """Return plain values for verdicts.json."""
        row = asdict(replace(self.comparison, spread=None))
        del row["spread"], row["scale"]
        return row | {
            "verdict": self.word,
            "p_holm": self.p_holm,
            "family": self.family,
            "level": self.level,
        }


def write_change(figure: Compared, value: float) -> str:
    """Return a difference in the figure's unit, such as "+8.0 points"."""
    if figure is Compared.COST:
        return f"+{plain(value)}" if value > 0 else plain(value)
    if figure is Compared.AUROC:
        return f"{value:+.3f}".replace("-", "−")
    return points(value)


def error_words(change: Change, *, pruned: int) -> str:
    """Return the verdict on misses or overkill; no verdict follows from pruned runs."""
    words = {"better": "fewer", "worse": "more", UNKNOWN: "not told apart"}
    words |= {f"slightly {key}": f"slightly {words[key]}" for key in ("better", "worse")}
    verdict = UNKNOWN if pruned else change.word
    reason = "" if pruned or verdict != UNKNOWN else change.why_unknown
    return words.get(verdict, verdict) + reason


def change(
    figure: Compared, variant: Answers, baseline: Answers, rule: Rule, *, fixed: bool = False
) -> Change:
    """Return the difference of one figure between two arms, without a correction.

    With `fixed`, the baseline was not trained, so it has no seeds. Raise UserError if the arms
    tested their records in different folds.
    """
    if variant.folds != baseline.folds:
        raise UserError(
            "the variant and its baseline tested the same parts in different folds; give both the "
            "same data.folds, data.split_seed and data.allow_leak"
        )
    clusters: Clusters = variant.clusters
    if variant.folds is not None:
        clusters = Folded(clusters=variant.clusters, folds=variant.folds)
    comparison = compare(
        variant.outcomes(figure),
        baseline.outcomes(figure),
        clusters=clusters,
        figure=figure,
        positive=variant.positive,
        costs=rule.costs,
        fixed=fixed,
    )
    return Change(
        comparison=comparison,
        p_holm=comparison.p_value,
        equivalence_holm=comparison.equivalence_p,
    )


def in_order(answers: Answers, ids: Sequence[str]) -> Answers:
    """Return the answers in the order of `ids`. Raise UserError if they are of other records."""
    if answers.ids == tuple(ids):
        return answers

    position_of = {record: index for index, record in enumerate(answers.ids)}
    lacking = sorted(set(position_of) ^ set(ids))
    if lacking:
        raise UserError(
            f"record '{lacking[0]}' was predicted by some of the compared runs but not by all; "
            "evaluate them on the same held-out records"
        )

    order = [position_of[record] for record in ids]
    return replace(
        answers,
        ids=tuple(ids),
        right=answers.right[:, order],
        scores=None if answers.scores is None else answers.scores[:, order],
        positive=answers.positive[order],
        clusters=tuple(answers.clusters[index] for index in order),
        folds=None if answers.folds is None else tuple(answers.folds[index] for index in order),
    )


def correct_changes(changes: Sequence[Change], level: float) -> list[Change]:
    """Return one family of changes with Holm's p-values."""
    differs = holm([one.comparison.p_value for one in changes])
    equal = holm([one.comparison.equivalence_p for one in changes])
    return [
        replace(
            one,
            p_holm=p,
            equivalence_holm=q,
            family=len(changes),
            level=level,
        )
        for one, p, q in zip(changes, differs, equal, strict=True)
    ]


def p_words(value: float) -> str:
    """Return a p-value in words."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
