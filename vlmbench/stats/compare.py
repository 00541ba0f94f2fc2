"""Two arms on the same records: the difference, its interval, and the verdict in words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmbench.stats import power
from vlmbench.stats.clusters import MIN_EFFECTIVE, Design, Floats, Folded, number_clusters
from vlmbench.stats.decided import Decided, threshold_variance
from vlmbench.stats.figures import (
    Compared,
    Contributions,
    Costs,
    Flags,
    contributions,
    design_of,
    fold_design,
    require_labels,
)
from vlmbench.stats.spread import Spread, measure_spread
from vlmbench.types import UserError

MARGIN = 0.02  # smaller differences are called small
LEVEL = 0.05  # of all looks together
UNKNOWN = "not enough data to tell"

Clusters = Sequence[Hashable] | NDArray[Any] | Folded
Outcomes = ArrayLike | Decided


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The figure of a minus that of b, and what can be said about it.

    `low` and `high` are the 95 % interval. `p_value` tests that there is no difference;
    `equivalence_p` that there is one of more than `margin`. `effective_clusters` is the number of
    equally large parts that would tell as much. `seeds` are the numbers of seeds of a and b, 0 for
    an arm that no seed would change. Differences are in the figure's own unit.
    """

    figure: Compared
    difference: float
    low: float
    high: float
    p_value: float
    equivalence_p: float
    margin: float
    n_records: int
    n_clusters: int
    effective_clusters: float
    seeds: tuple[int, int]
    scale: float = 1.0
    spread: Spread | None = field(default=None, repr=False)

    @property
    def is_one_seed(self) -> bool:
        """Whether an arm has one seed: its interval lacks what another seed would change."""
        return 1 in self.seeds

    @property
    def is_too_small(self) -> bool:
        """Whether there are too few effective parts for any verdict."""
        return self.effective_clusters < MIN_EFFECTIVE

    @property
    def word(self) -> str:
        """The verdict of this comparison alone."""
        return self.verdict()

    def verdict(
        self,
        *,
        p_value: float | None = None,
        equivalence_p: float | None = None,
        level: float = LEVEL,
    ) -> str:
        """Return in words what is known about a against b.

        `p_value` and `equivalence_p` replace the comparison's own where it is one of a family.
        There is no verdict from one seed, or from fewer than ten effective parts.
        """
        if self.is_one_seed or self.is_too_small:
            return UNKNOWN

        differs = (self.p_value if p_value is None else p_value) < level
        is_small = (self.equivalence_p if equivalence_p is None else equivalence_p) < level
        if differs:
            is_better = (self.difference > 0) is not self.figure.lower_is_better
            direction = "better" if is_better else "worse"
            return f"slightly {direction}" if is_small else direction

        return f"no difference larger than {self.margin_words}" if is_small else UNKNOWN

    @property
    def power_note(self) -> str:
        """The data that would narrow the interval, in words. It takes 0.05 s to compute.

        It is "" for a cross-validation: plans do not know the effect of training sets.
        """
        if self.spread is None or self.spread.folds is not None:
            return ""
        difference, spread = self.difference / self.scale, self.spread.scaled(self.scale)
        return power.power_note(self.figure, difference, spread, seeds=self.seeds)

    @property
    def models_differ(self) -> bool:
        """Whether the trained models at hand differ, whatever another seed would do."""
        return not self.is_too_small and self.p_value < LEVEL

    @property
    def margin_words(self) -> str:
        if self.figure is Compared.COST:
            return f"{self.margin:g}"
        return f"{100 * self.margin:g} points"


def compare(
    outcomes_a: Outcomes,
    outcomes_b: Outcomes,
    *,
    clusters: Clusters,
    figure: Compared | str = Compared.ACCURACY,
    positive: ArrayLike | None = None,
    costs: Costs | None = None,
    fixed: bool = False,
    margin: float = MARGIN,
) -> Comparison:
    """Return the figure of a minus that of b on the same records.

    `outcomes_a` and `outcomes_b` are (seeds, records): 1 where the answer was right, else 0; for
    figure="auroc" any scores that rise with the positive label. With `Decided`, the interval
    holds the choice of the validation parts that gave the thresholds. `clusters` names the cluster
    of each record, whose records are not independent: (records). With `Folded` clusters, each
    record was answered by the model of its fold, and the interval holds the choice of training
    sets too: see `Spread.half_width`. `positive` is each record's true label. With `fixed`, b was
    not trained, so it has no seeds. `margin` is in points of share; for figure="cost" it is what
    costs change by if misses and overkill both change by `margin`.

    The interval holds the choice of parts (jackknife over clusters) and of seeds (both arms apart,
    any number each): see `Design.variance` and `half_width`. A single cluster has no interval.

    Raise UserError where shapes differ or records are missing.
    """
    figure = _known(figure)
    pair = paired(
        outcomes_a,
        outcomes_b,
        clusters=clusters,
        figure=figure,
        positive=positive,
        costs=costs,
        fixed=fixed,
    )
    spread, design = pair.spread, pair.design
    # A cost changes by `scale` if all records of both labels are judged otherwise.
    scale = float(np.abs(design.class_weights).sum()) if figure is Compared.COST else 1.0
    half_width = spread.half_width()

    return Comparison(
        figure=figure,
        difference=pair.difference,
        low=max(pair.difference - half_width, -scale),
        high=min(pair.difference + half_width, scale),
        p_value=spread.p_value(pair.difference),
        equivalence_p=spread.equivalence_p(pair.difference, margin * scale),
        margin=margin * scale,
        n_records=len(design.clusters),
        n_clusters=design.num_clusters,
        effective_clusters=design.effective_clusters,
        seeds=pair.seeds,
        scale=scale,
        spread=spread,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """A difference of two arms, and what its interval is made of."""

    difference: float
    spread: Spread
    design: Design
    seeds: tuple[int, int]


def paired(
    outcomes_a: Outcomes,
    outcomes_b: Outcomes,
    *,
    clusters: Clusters,
    figure: Compared,
    positive: ArrayLike | None = None,
    costs: Costs | None = None,
    fixed: bool = False,
) -> Pair:
    """Return the difference and its spread, without words; see `compare` for the arguments."""
    given = (outcomes_a, outcomes_b)
    decided = [each if isinstance(each, Decided) else None for each in given]
    plain = [each.outcomes if isinstance(each, Decided) else each for each in given]
    a, b = _rows(plain[0], "outcomes_a"), _rows(plain[1], "outcomes_b")
    numbers, folds = _numbers(clusters)
    flags = None if positive is None else np.asarray(positive).astype(np.bool_)
    _require_same_length(a, b, numbers, flags, folds)
    require_labels(figure, flags, costs, folds)

    design, records = design_of(figure, numbers, flags, costs)
    labels = None if flags is None else flags[records]
    own = None if folds is None else folds[records]

    def contribute(rows: Floats) -> Contributions:
        return contributions(figure, design, rows[:, records], labels, own)

    arm_a, arm_b = contribute(a), contribute(b)

    difference = float(arm_a.values.mean() - arm_b.values.mean())
    by_fold = None if own is None else fold_design(figure, design, own)
    spread = replace(
        measure_spread(design, arm_a, arm_b, fixed=fixed, folds=by_fold),
        thresholds=threshold_variance(design, contribute, *decided),
    )
    seeds = (len(a), 0 if fixed else len(b))
    return Pair(
        difference=difference,
        spread=spread,
        design=design,
        seeds=seeds,
    )


def _numbers(clusters: Clusters) -> tuple[NDArray[np.intp], NDArray[np.intp] | None]:
    """Return the numbers of the records' clusters, and those of their folds, if there are any."""
    if isinstance(clusters, Folded):
        return number_clusters(clusters.clusters), number_clusters(clusters.folds)
    return number_clusters(clusters), None


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of one family of comparisons, corrected for their number (Holm 1979).

    The order stays. statsmodels' multipletests gives the same numbers, but it collects garbage at
    each call: 1 s of the 3.7 s that a small report takes.
    """
    raw = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    steps = raw[order] * np.arange(raw.size, 0, -1)

    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in corrected]


def _known(figure: Compared | str) -> Compared:
    try:
        return Compared(figure)
    except ValueError:
        known = ", ".join(Compared)
        raise UserError(f"the figure {figure!r} is not known; choose {known}") from None


def _rows(outcomes: ArrayLike, name: str) -> Floats:
    rows = np.asarray(outcomes, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise UserError(f"{name} has shape {rows.shape}; give an array of (seeds, records)")
    if not np.isfinite(rows).all():
        raise UserError(f"{name} holds a number that is not finite; give numbers only")
    return rows


def _require_same_length(
    a: Floats,
    b: Floats,
    clusters: NDArray[np.intp],
    positive: Flags | None,
    folds: NDArray[np.intp] | None,
) -> None:
    lengths = {
        "outcomes_a": a.shape[1],
        "outcomes_b": b.shape[1],
        "clusters": len(clusters),
        "positive": a.shape[1] if positive is None else len(positive),
    }
    if folds is not None:
        lengths["folds"] = len(folds)
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {number}" for name, number in lengths.items())
        raise UserError(f"the numbers of records differ: {counts}; give the same records to all")
