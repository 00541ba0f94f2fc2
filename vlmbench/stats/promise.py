"""Two limits with a promised error rate, and between them the answer "look at it".

Distribution-free, by conformal prediction on parts. No model of the scores is assumed, only that
new parts come from the same source as those of the basis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmbench.stats.basis import Basis, Source
from vlmbench.stats.clusters import Floats
from vlmbench.stats.estimates import estimate_rate
from vlmbench.types import LABELS, Estimate, Rate, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A record with a margin below `pass_below` is passed, above `stop_above` it is stopped.

    Both are in nats of the model's own margin, and never cross. Between them, somebody looks at the
    part. `looked_at` is that share among the basis's records of each label, `max_miss` and
    `max_overkill` are the promised rates. `n_abnormal` and `n_normal` are the parts that they rest
    on.
    """

    pass_below: float
    stop_above: float
    max_miss: float
    max_overkill: float
    n_abnormal: int
    n_normal: int
    measured_on: Source
    looked_at_normal: Estimate
    looked_at_abnormal: Estimate

    def label(self, margin: float) -> int | None:
        """Return 0 for a record that is passed, 1 for one that is stopped, None to look at it."""
        if margin < self.pass_below:
            return 0
        return 1 if margin > self.stop_above else None


def promise(basis: Basis, *, max_miss: float, max_overkill: float) -> Promise:
    """Return the limits of least "look at it" that keep both promises.

    At most the share `max_miss` of new abnormal parts is passed, and at most `max_overkill` of new
    normal parts is stopped: one record of each, on average over calibrations. A part with many
    records counts once (hierarchical conformal prediction, Lee, Barber & Willett 2023,
    arXiv:2306.06342).

    Raise UserError if the basis chose a checkpoint, has planted defects, or has too few parts for
    such a promise.
    """
    if basis.source is Source.PLANTED:
        raise UserError(
            "the defects that it would rest on are planted, and say nothing of real ones; use "
            "costs instead, or evaluate a run with real defects in its test split"
        )
    if basis.chose:
        raise UserError(
            "the records that it would rest on chose the best of "
            f"{basis.checkpoints} checkpoints, and {basis.why_not_test}; use costs instead, or "
            "evaluate a run with more test parts"
        )

    margins = np.array([record.margin for record in basis.records], dtype=np.float64)
    positive = np.array(
        [record.expected == LABELS[record.task][1] for record in basis.records], dtype=np.bool_
    )
    parts = np.array([record.cluster for record in basis.records])

    n_abnormal, n_normal = len(set(parts[positive])), len(set(parts[~positive]))
    _require_parts("abnormal", n_abnormal, max_miss)
    _require_parts("normal", n_normal, max_overkill)

    low = _limit(margins[positive], parts[positive], max_miss)
    high = -_limit(-margins[~positive], parts[~positive], max_overkill)
    if low > high:  # both promises hold for every limit between them
        low = high = (low + high) / 2

    looked_at = (margins >= low) & (margins <= high)
    return Promise(
        pass_below=low,
        stop_above=high,
        max_miss=max_miss,
        max_overkill=max_overkill,
        n_abnormal=n_abnormal,
        n_normal=n_normal,
        measured_on=basis.source,
        looked_at_normal=_share(looked_at[~positive], parts[~positive]),
        looked_at_abnormal=_share(looked_at[positive], parts[positive]),
    )


def least_parts(rate: float) -> int:
    """Return the parts without which no such rate can be promised: 19 for 5 %, 99 for 1 %."""
    return math.ceil(1 / rate - 1e-9) - 1


def _require_parts(label: str, count: int, rate: float) -> None:
    needed = least_parts(rate)
    if count < needed:
        raise UserError(
            f"a promise of {100 * rate:g} % needs {needed} {label} parts that chose nothing, "
            f"and there are {count}, which suffice for {100 / (count + 1):.1f} %"
        )


def _limit(margins: Floats, parts: NDArray[np.str_], rate: float) -> float:
    """Return the highest observed margin below which a new part's record lies in `rate` at most.

    Each part has the weight 1 / (parts + 1), spread evenly over its records. The weight of the new
    part itself counts as below the limit.
    """
    _, part_of, sizes = np.unique(parts, return_inverse=True, return_counts=True)
    own_weight = 1 / (len(sizes) + 1)
    weights = own_weight / sizes[part_of]

    order = np.argsort(margins, kind="stable")
    ordered, ordered_weights = margins[order], weights[order]
    values, first = np.unique(ordered, return_index=True)
    before = np.concatenate([[0.0], np.cumsum(ordered_weights)])[first]  # strictly below each value

    fits = own_weight + before <= rate + 1e-12
    return float(values[np.flatnonzero(fits)[-1]])


def _share(hits: NDArray[np.bool_], parts: NDArray[np.str_]) -> Estimate:
    return estimate_rate(Rate(hits=tuple(hits.tolist()), parts=tuple(map(str, parts))))
