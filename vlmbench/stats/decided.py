"""Decisions at calibrated thresholds, and what other validation parts would have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmbench.stats.calibrate import calibrate, recalibrate, scored_records
from vlmbench.stats.clusters import Design, Floats
from vlmbench.stats.figures import Contributions
from vlmbench.stats.rule import Rule
from vlmbench.stats.spread import Variance
from vlmbench.types import Prediction, UserError


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Decided:
    """Outcomes of an arm, and those with other validation parts.

    `outcomes` is (seeds, n). `redrawn` is (groups, seeds, n): the outcomes at redrawn thresholds,
    one for each group of validation parts. `parts` are their names. Arms of equal parts are
    compared group by group.
    """

    outcomes: ArrayLike
    redrawn: ArrayLike
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Redrawn:
    """Thresholds as if other validation parts had been drawn.

    A record is judged positive where slope * margin + offset > 0. `lines` are slopes and offsets,
    (groups, seeds, 2). `parts` are the names of the validation parts.
    """

    lines: Floats
    parts: tuple[str, ...]

    def decide(self, right: Floats, margins: Floats, positive: NDArray[np.bool_]) -> Decided:
        """Return outcomes for `compare`.

        `right` (seeds, n) is 1 where the decision at the calibrated threshold is the true label,
        `positive` (n). `margins` is (seeds, n).
        """
        slopes, offsets = self.lines[..., :1], self.lines[..., 1:]
        judged = slopes * margins + offsets > 0
        return Decided(
            outcomes=right,
            redrawn=judged == positive,
            parts=self.parts,
        )


def redraw(validation: Sequence[Sequence[Prediction]], rule: Rule) -> Redrawn | None:
    """Return redrawn thresholds from validation predictions of one task and view, for each seed.

    A group of parts is left out at a time. The deviations are scaled by the root of (groups - 1),
    so their mean square is the jackknife's variance (Tukey 1958). A decision is a step: deviations
    of this size show how many records another threshold moves.

    It is None where there are too few records to calibrate, or seeds differ in their parts.
    """
    parts = {tuple(sorted({each.cluster for each in scored_records(own)})) for own in validation}
    if len(parts) != 1:
        return None
    try:
        lines = [_redrawn_lines(own, rule) for own in validation]
    except UserError:
        return None
    return Redrawn(lines=np.stack(lines, axis=1), parts=parts.pop())


def _redrawn_lines(predictions: Sequence[Prediction], rule: Rule) -> Floats:
    lines = np.array([rule.line(each) for each in recalibrate(predictions)])
    deviations = np.sqrt(len(lines) - 1) * (lines - lines.mean(axis=0))
    redrawn: Floats = np.array(rule.line(calibrate(predictions))) + deviations
    redrawn[:, 0] = np.maximum(redrawn[:, 0], 0.0)  # no judge is reversed
    return redrawn


def threshold_variance(
    design: Design, contribute: Callable[[Floats], Contributions], *arms: Decided | None
) -> tuple[Variance, ...]:
    """Return the variance of the difference of two arms by the choice of validation parts.

    `contribute` returns what each row of outcomes adds to the figure. There is one variance for
    arms that were calibrated on the same parts, else one for each arm that was calibrated.

    It is the variance of what a redrawn threshold changes on all records. Some of what it changes
    on the test records is their chance: that is taken off, because clusters hold it already.
    """
    moves = [_moves(arm, contribute) for arm in arms if arm is not None]
    if len({arm.parts for arm in arms if arm is not None}) == 1 and len(moves) == 2:
        moves = [_Moves(*(a - b for a, b in zip(*moves, strict=True)))]
    return tuple(_variance(design, each) for each in moves)


class _Moves(NamedTuple):
    """Changes by redrawn thresholds: of the figure (groups), and of its residuals (groups, n)."""

    figure: Floats
    residuals: Floats


def _variance(design: Design, moves: _Moves) -> Variance:
    chance = [design.variance(row) for row in moves.residuals]
    known = np.nan_to_num(chance, posinf=0.0)
    value = float((moves.figure**2).mean() - known.mean())
    return Variance(value=max(value, 0.0), freedom=len(moves.figure) - 1)


def _moves(arm: Decided, contribute: Callable[[Floats], Contributions]) -> _Moves:
    outcomes = np.asarray(arm.outcomes, dtype=np.float64)
    redrawn = np.asarray(arm.redrawn, dtype=np.float64)
    if redrawn.ndim != 3 or redrawn.shape[1:] != outcomes.shape or len(redrawn) < 2:
        raise UserError(
            f"redrawn has shape {redrawn.shape}; give an array of (groups, seeds, records) with "
            "two groups or more"
        )

    own = contribute(outcomes)
    others = [contribute(rows) for rows in redrawn]
    return _Moves(
        np.array([each.values.mean() - own.values.mean() for each in others]),
        np.array([(each.residuals - own.residuals).mean(axis=0) for each in others]),
    )
