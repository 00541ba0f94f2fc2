"""Whether an exported model says what the run said: the same labels, and how far their log-probabilities lie apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmbench.config import JudgeConfig
from vlmbench.types import Prediction, UserError

MOST_NAMED = 5  # records in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Answers of one form of the model beside another's: `n` records, those whose label changed with the distance of
    the two labels before (nats), and the largest difference of a label's log-probability (nats)."""

    n: int
    changed: Mapping[str, float]
    largest_difference: float

    def to_json(self) -> dict[str, Any]:
        return {"n": self.n, "changed": dict(self.changed), "largest_difference": self.largest_difference}


def compare_answers(before: Sequence[Prediction], after: Sequence[Prediction]) -> Parity:
    """The answers of two forms of a model to the same records.

    Raises UserError where a score is no number, or where the two did not answer the same records.
    """
    if [one.id for one in before] != [one.id for one in after]:
        raise UserError("the two forms of the model answered different records; export again")
    changed: dict[str, float] = {}
    largest = 0.0
    for one, other in zip(before, after, strict=True):
        for label, score in one.scores.items():
            difference = abs(score - other.scores[label])
            if not math.isfinite(difference):
                raise UserError(f"record {one.id!r}: the score of {label!r} is no number; the adapter is broken")
            largest = max(largest, difference)
        if one.predicted != other.predicted:
            changed[one.id] = abs(one.margin or 0.0)
    return Parity(n=len(before), changed=changed, largest_difference=largest)


def require_parity(name: str, found: Parity, settings: JudgeConfig) -> None:
    """Raise UserError where a label changed whose distance to the other one was more than `judge.parity_margin`, or a
    score by more than `judge.parity_difference`."""
    far = {record: distance for record, distance in found.changed.items() if distance > settings.parity_margin}
    if not far and found.largest_difference <= settings.parity_difference:
        return
    if not far:
        raise UserError(
            f"the {name} model gives scores that differ from the adapter's by up to {found.largest_difference:.2g} "
            f"nats, more than judge.parity_difference={settings.parity_difference}: it is not the model that was "
            "measured. Nothing was exported"
        )
    named = ", ".join(f"{record} ({distance:.2g} nats)" for record, distance in list(far.items())[:MOST_NAMED])
    raise UserError(
        f"the {name} model gives other labels than the adapter on {len(far)} of {found.n} held-out records, such as "
        f"{named}; scores differ by up to {found.largest_difference:.2g} nats. Nothing was exported. Where only labels "
        f"changed that were nearly equally likely, judge.parity_margin={_above(max(far.values()))} accepts that, and "
        "the model card says so"
    )


def _above(distance: float) -> str:
    return f"{distance * 1.05:.2g}" if distance > 0 else "0"


def recorded_of(known: Sequence[Prediction], asked: Sequence[Prediction]) -> tuple[list[Prediction], list[Prediction]]:
    """The scored answers that the run recorded to the records that were asked again, and these."""
    by_id = {one.id: one for one in known if one.scores}
    again = [one for one in asked if one.id in by_id]
    return [by_id[one.id] for one in again], again
