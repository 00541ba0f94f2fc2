"""The figures that can be compared, each as what every record adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from vlmbench.stats.clusters import Design, Floats
from vlmbench.types import UserError

Flags = NDArray[np.bool_]


class Compared(StrEnum):
    """A figure on which two variants are compared."""

    ACCURACY = "accuracy"
    BALANCED_ACCURACY = "balanced_accuracy"
    MISSES = "misses"
    OVERKILL = "overkill"
    COST = "cost"
    AUROC = "auroc"

    @property
    def lower_is_better(self) -> bool:
        return self in (Compared.MISSES, Compared.OVERKILL, Compared.COST)

    @property
    def needs_labels(self) -> bool:
        return self is not Compared.ACCURACY


# Figures of both labels -> the weights of the negative and of the positive records' mean.
_CLASS_WEIGHTS: Mapping[Compared, tuple[float, float]] = {
    Compared.BALANCED_ACCURACY: (0.5, 0.5),
    Compared.AUROC: (1.0, 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """The cost of a missed positive record and of a false alarm, in any one unit.

    `prevalence` is the share of positive records in use; None takes their share in the data.
    """

    miss: float
    overkill: float
    prevalence: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Contributions:
    """A figure of one arm: its value for each seed, and what each record adds.

    `values` is (seeds). `residuals` (seeds, n) sum to 0 in each class of `Design`; times the
    class's weight over its number of records, they are the figure's influence values.
    """

    values: Floats
    residuals: Floats

    @property
    def num_seeds(self) -> int:
        return len(self.values)


def design_of(
    figure: Compared, clusters: NDArray[np.intp], positive: Flags | None, costs: Costs | None
) -> tuple[Design, NDArray[np.intp]]:
    """Return the design of a figure, and the indices of the records that it rests on."""
    records = np.arange(len(clusters))
    if figure is Compared.MISSES and positive is not None:
        records = records[positive]
    elif figure is Compared.OVERKILL and positive is not None:
        records = records[~positive]

    classes = np.zeros(len(records), dtype=np.intp)
    weights = [1.0]
    if positive is not None and figure in _CLASS_WEIGHTS:
        classes = positive[records].astype(np.intp)
        weights = list(_CLASS_WEIGHTS[figure])
    elif figure is Compared.COST and positive is not None and costs is not None:
        classes = positive.astype(np.intp)
        share = float(positive.mean()) if costs.prevalence is None else costs.prevalence
        weights = [-(1 - share) * costs.overkill, -share * costs.miss]

    _, numbers = np.unique(clusters[records], return_inverse=True)
    design = Design(
        clusters=numbers,
        classes=classes,
        class_weights=np.array(weights),
    )
    return design, records


def fold_design(figure: Compared, design: Design, folds: NDArray[np.intp]) -> Design:
    """Return the design with the `folds` of its records as clusters.

    The mean placements of both classes of a fold are its AUROC, so each has half of the weight.
    """
    _, numbers = np.unique(folds, return_inverse=True)
    share = 0.5 if figure is Compared.AUROC else 1.0
    return Design(
        clusters=numbers,
        classes=design.classes,
        class_weights=share * design.class_weights,
    )


def contributions(
    figure: Compared,
    design: Design,
    outcomes: Floats,
    positive: Flags | None,
    folds: NDArray[np.intp] | None = None,
) -> Contributions:
    """Return the figure's values and residuals from outcomes (seeds, n) of the design's records.

    Outcomes are 1 where the answer was right, else 0; for AUROC they are scores. With `folds`, the
    number of each record's fold (n), records are ranked within their fold: each fold has a model
    of its own, whose scores say nothing about another's.
    """
    if figure is Compared.AUROC and positive is not None:
        outcomes = placements_by_fold(outcomes, positive, folds)

    means = np.stack([outcomes[:, design.classes == k].mean(axis=1) for k in _classes(design)])
    residuals = outcomes - means.T[:, design.classes]
    values = means.T @ design.class_weights

    if figure is Compared.AUROC:
        values = values / 2  # both classes have the AUROC as their mean placement
    elif figure in (Compared.MISSES, Compared.OVERKILL):
        values, residuals = 1 - values, -residuals
    elif figure is Compared.COST:
        values = values - design.class_weights.sum()

    return Contributions(values=values, residuals=residuals)


def placements(scores: Floats, positive: Flags) -> Floats:
    """Return for each record the share of the other class that it is ranked rightly against.

    Ties count half. These are the components of DeLong et al. (1988), Biometrics 44; summed over
    clusters they give the variance of Obuchowski (1997), Biometrics 53.
    """
    number = int(positive.sum())
    placed = np.empty_like(scores)
    for row, out in zip(scores, placed, strict=True):
        ranks = rankdata(row)
        above = ranks[positive] - rankdata(row[positive])
        below = ranks[~positive] - rankdata(row[~positive])
        out[positive] = above / (len(row) - number)
        out[~positive] = 1 - below / number

    return placed


def placements_by_fold(scores: Floats, positive: Flags, folds: NDArray[np.intp] | None) -> Floats:
    """Return `placements` within each fold; without folds, among all records."""
    if folds is None:
        return placements(scores, positive)

    placed = np.empty_like(scores)
    for fold in np.unique(folds):
        members = folds == fold
        placed[:, members] = placements(scores[:, members], positive[members])
    return placed


def require_labels(
    figure: Compared,
    positive: Flags | None,
    costs: Costs | None,
    folds: NDArray[np.intp] | None = None,
) -> None:
    """Raise UserError where a figure lacks labels, one of both labels, or costs."""
    if figure is Compared.COST and costs is None:
        raise UserError("the figure cost needs costs=Costs(miss=..., overkill=...)")
    if not figure.needs_labels:
        return
    if positive is None:
        raise UserError(f"the figure {figure} needs positive=[...], the true label of each record")

    lacking = {
        Compared.MISSES: not positive.any(),
        Compared.OVERKILL: bool(positive.all()),
    }.get(figure, bool(positive.all() or not positive.any()))
    if lacking:
        raise UserError(
            f"the figure {figure} needs records of both labels; choose figure='accuracy', or add "
            "records of the other label"
        )
    if figure is Compared.AUROC and folds is not None:
        _require_labels_of_folds(positive, folds)


def _require_labels_of_folds(positive: Flags, folds: NDArray[np.intp]) -> None:
    for fold in np.unique(folds).tolist():
        own = positive[folds == fold]
        if own.all() or not own.any():
            raise UserError(
                f"AUROC is averaged over folds, and all {len(own)} records of one fold have the "
                "same label; set eval.primary=balanced_accuracy"
            )


def _classes(design: Design) -> range:
    return range(len(design.class_weights))
