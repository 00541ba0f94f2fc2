"""The records that a run's decisions are measured on: those that chose nothing, if they suffice.

Training keeps the checkpoint with the best figure on the validation records that it follows. Their
figures are then too good: among 20 equal checkpoints, a cost of 0.22 looks like 0.13 on the 40
parts that chose (tests/stats/test_basis.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmbench.stats.calibrate import Calibration, out_of_fold, scored_records
from vlmbench.stats.clusters import MIN_EFFECTIVE, Design, Floats, number_clusters
from vlmbench.types import LABELS, PLANTED, Prediction


class Source(StrEnum):
    """Which records figures are measured on."""

    TEST = "test"
    UNFOLLOWED = "unfollowed"  # validation records of parts that training did not follow
    VALIDATION = "validation"
    PLANTED = "planted"  # validation records whose defects are planted


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Basis:
    """Records of one task and view, with their calibrated log-odds, (n).

    No record's calibration saw a record of its part. `checkpoints` is the number of checkpoints of
    which the best on these records was kept; 0 if they chose none. `effective_parts` is the number
    of equally large parts that would tell as much, of the label with fewer. `why_not_test` says why
    these are not records of the test split, "" if they are.
    """

    source: Source
    records: tuple[Prediction, ...]
    log_odds: Floats
    checkpoints: int
    effective_parts: float
    why_not_test: str

    @property
    def chose(self) -> bool:
        """Whether these records chose the checkpoint: then their figures are too good."""
        return self.checkpoints > 1

    @property
    def is_small(self) -> bool:
        """Whether the records are too few for an interval that can be relied on."""
        return self.effective_parts < MIN_EFFECTIVE

    @property
    def n_parts(self) -> int:
        return len({record.cluster for record in self.records})

    @property
    def log_loss(self) -> float:
        """Log loss of the calibrated scores, in nats a record."""
        return _log_loss(self.log_odds, _positive(self.records))

    @property
    def log_loss_before(self) -> float:
        """Log loss of the model's own probabilities, in nats a record."""
        return _log_loss(_margins(self.records), _positive(self.records))

    def summary(self) -> dict[str, Any]:
        """Return plain values: which records these are, how many, and the log loss on them."""
        return {
            "records": str(self.source),
            "n": len(self.records),
            "n_parts": self.n_parts,
            "effective_parts": self.effective_parts,
            "checkpoints": self.checkpoints,
            "log_loss": self.log_loss,
            "log_loss_before": self.log_loss_before,
        }


def find_basis(
    test: Sequence[Prediction] | None,
    validation: Sequence[Prediction],
    calibration: Calibration,
    *,
    checkpoints: int,
) -> Basis:
    """Return the records that the decisions of `calibration` are measured on.

    They are the test records, or else validation records that training did not follow, if these
    have MIN_EFFECTIVE effective parts of each label. Otherwise they are all validation records, or
    the test records if those tell more, or if only they have real defects. `test` is None for a
    sealed test split. `checkpoints` is the number of checkpoints that training chose among. Raise
    UserError if `validation` is not enough to calibrate.
    """
    tested = _test_basis(test or (), calibration)
    has_real = tested.effective_parts > 0
    is_planted = any(PLANTED in record.meta for record in validation)
    if not tested.is_small or (has_real and is_planted):
        return tested

    why = _why_not_test(test, tested)
    chosen_among = checkpoints if checkpoints > 1 else 0
    followed = _validation_basis(validation, checkpoints=chosen_among, why_not_test=why)
    if followed.chose:
        unfollowed = _unfollowed(followed)
        if not unfollowed.is_small:
            return unfollowed

    return tested if tested.effective_parts >= followed.effective_parts else followed


def _test_basis(test: Sequence[Prediction], calibration: Calibration) -> Basis:
    records = tuple(scored_records(test))
    return Basis(
        source=Source.TEST,
        records=records,
        log_odds=calibration.slope * _margins(records) + calibration.intercept,
        checkpoints=0,
        effective_parts=_effective_parts(records),
        why_not_test="",
    )


def _validation_basis(
    validation: Sequence[Prediction], *, checkpoints: int, why_not_test: str
) -> Basis:
    records = tuple(scored_records(validation))
    return Basis(
        source=_source_of(records, Source.VALIDATION),
        records=records,
        log_odds=out_of_fold(records),
        checkpoints=checkpoints,
        effective_parts=_effective_parts(records),
        why_not_test=why_not_test,
    )


def _source_of(records: Sequence[Prediction], source: Source) -> Source:
    """Return PLANTED for validation records with planted defects, else `source`."""
    return Source.PLANTED if any(PLANTED in each.meta for each in records) else source


def _unfollowed(basis: Basis) -> Basis:
    """Return the records of parts that training did not follow, calibrated as in `basis`."""
    members = [index for index, record in enumerate(basis.records) if record.followed is False]
    records = tuple(basis.records[index] for index in members)
    return Basis(
        source=_source_of(records, Source.UNFOLLOWED),
        records=records,
        log_odds=basis.log_odds[members],
        checkpoints=0,
        effective_parts=_effective_parts(records),
        why_not_test=basis.why_not_test,
    )


def _why_not_test(test: Sequence[Prediction] | None, tested: Basis) -> str:
    if test is None:
        return "the test split is sealed"
    if not tested.records:
        return "the run has no test records with scores"
    if not _positive(tested.records).any():
        label = LABELS[tested.records[0].task][1]
        return f"the test split has no {label} record"

    return (
        f"the test split is too small: {len(tested.records)} records of {tested.n_parts} parts "
        f"tell as much as {tested.effective_parts:.3g} equal parts of the rarer label, and "
        f"{MIN_EFFECTIVE:g} are needed"
    )


def _effective_parts(records: Sequence[Prediction]) -> float:
    """Return the effective number of parts of the label with fewer; 0 without both labels."""
    positive = _positive(records)
    if not positive.any() or positive.all():
        return 0.0

    design = Design(
        clusters=number_clusters([record.cluster for record in records]),
        classes=positive.astype(np.intp),
        class_weights=np.ones(2),
    )
    return design.effective_clusters


def _margins(records: Sequence[Prediction]) -> Floats:
    return np.array([record.margin for record in records], dtype=np.float64)


def _positive(records: Sequence[Prediction]) -> NDArray[np.bool_]:
    positive = [record.expected == LABELS[record.task][1] for record in records]
    return np.array(positive, dtype=np.bool_)


def _log_loss(log_odds: Floats, positive: NDArray[np.bool_]) -> float:
    return float(np.logaddexp(0.0, np.where(positive, -log_odds, log_odds)).mean())
