"""Whether an exported model answers as the run did: the same labels, close log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmbench.config import ExportConfig
from vlmbench.types import Prediction, UserError

MAX_NAMED = 5  # records in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Answers of one form of the model compared with those of another, on `n` records.

    `changed` maps a record whose label changed to the distance of its two labels before, in nats.
    `largest_difference` is of a label's log-probability, in nats.
    """

    n: int
    changed: Mapping[str, float]
    largest_difference: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "n": self.n,
            "changed": dict(self.changed),
            "largest_difference": self.largest_difference,
        }


def compare_answers(before: Sequence[Prediction], after: Sequence[Prediction]) -> Parity:
    """Compare the answers of two forms of a model to the same records.

    Raise UserError if a score is NaN or infinite, or if the records differ.
    """
    ids = [prediction.id for prediction in before]
    if ids != [prediction.id for prediction in after]:
        raise UserError(
            "the two forms of the model answered different records; start stage=export again"
        )

    changed: dict[str, float] = {}
    largest = 0.0
    for old, new in zip(before, after, strict=True):
        for label, score in old.scores.items():
            difference = abs(score - new.scores[label])
            if not math.isfinite(difference):
                raise UserError(
                    f"record {old.id!r}: the score of {label!r} is NaN or infinite; "
                    "the adapter is broken, train it again"
                )
            largest = max(largest, difference)
        if old.predicted != new.predicted:
            changed[old.id] = abs(old.margin or 0.0)

    return Parity(
        n=len(before),
        changed=changed,
        largest_difference=largest,
    )


def require_parity(name: str, parity: Parity, settings: ExportConfig) -> None:
    """Raise UserError if a model differs from the adapter by more than the settings allow.

    `export.parity_margin` limits the margin of labels that changed, and
    `export.parity_difference` the change of a log-probability, both in nats.
    """
    margin, difference = settings.parity_margin, parity.largest_difference
    far = {record: distance for record, distance in parity.changed.items() if distance > margin}

    if far:
        named = ", ".join(
            f"{record} ({distance:.2g} nats)" for record, distance in list(far.items())[:MAX_NAMED]
        )
        raise UserError(
            f"the {name} model gives other labels than the adapter on {len(far)} of {parity.n} "
            f"held-out records, such as {named}; scores differ by up to {difference:.2g} nats. "
            "Nothing was exported. If these labels were nearly equally likely, "
            f"export.parity_margin={_above(max(far.values()))} accepts the change, "
            "and the model card reports it"
        )
    if difference > settings.parity_difference:
        raise UserError(
            f"the {name} model gives scores that differ from the adapter's by up to "
            f"{difference:.2g} nats, more than "
            f"export.parity_difference={settings.parity_difference:g}: it is not the model that "
            "was measured. Nothing was exported; "
            f"export.parity_difference={_above(difference)} accepts the difference"
        )


def recorded_answers(
    recorded: Sequence[Prediction], answers: Sequence[Prediction]
) -> tuple[list[Prediction], list[Prediction]]:
    """Return the run's recorded answers to the records answered again, and those new answers."""
    by_id = {prediction.id: prediction for prediction in recorded if prediction.scores}
    again = [prediction for prediction in answers if prediction.id in by_id]
    return [by_id[prediction.id] for prediction in again], again


def _above(distance: float) -> str:
    """Return a number a little above the distance."""
    return f"{distance * 1.05:.2g}" if distance > 0 else "0"
