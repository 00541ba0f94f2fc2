"""judge_pair records, and references beside themselves or beside a changed copy: both normal.

A model that was never shown two equal images may call them different, with an invented defect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmbench.config import VariantConfig, schema, setting
from vlmbench.data.changes import CHANGES
from vlmbench.data.variants._common import positions_of_tasks
from vlmbench.types import LABELS, Probe, Record, Role, Task

NORMAL = LABELS[Task.JUDGE_PAIR][0]


@schema("data", "with_self_pairs")
@dataclass(kw_only=True)
class WithSelfPairsConfig(VariantConfig):
    self_share: float = setting(
        0.1, "Self pairs for each judge_pair record, rounded up.", at_least=0, at_most=1
    )
    changed_share: float = setting(
        0.5,
        "Share of the self pairs whose copy is blurred, darker, shifted, rotated or a small JPEG.",
        at_least=0,
        at_most=1,
    )

    def select(
        self,
        records: Sequence[Record],
        *,
        cost: Callable[[Record], int],
        seed: int,
    ) -> list[int]:
        return positions_of_tasks(records, [Task.JUDGE_PAIR])

    def make(self, records: Sequence[Record], *, seed: int) -> list[Record]:
        """Return the self pairs of records that are drawn at random, in the order of `records`."""
        rng = np.random.default_rng([seed, len(records)])
        number = int(np.ceil(self.self_share * len(records)))
        drawn = sorted(rng.permutation(len(records))[:number].tolist())
        changed = rng.random(number) < self.changed_share
        names = rng.choice(list(CHANGES), number)

        answers = dict(_normal_answers(records))
        return [
            _self_pair(records[index], change=str(name) if is_changed else "", answers=answers)
            for index, is_changed, name in zip(drawn, changed, names, strict=True)
        ]

    def notes(self, tasks: Collection[Task]) -> list[str]:
        changes = ", ".join(CHANGES)
        return [
            "with_self_pairs trains on references beside themselves, so the control self_pair is "
            f"no surprise to it; nor are changed images ({changes})"
        ]


def _normal_answers(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Yield (question, answer) of the normal records."""
    for record in records:
        if record.label == NORMAL:
            yield record.question, record.answer


def _self_pair(record: Record, *, change: str, answers: dict[str, str]) -> Record:
    """Return the record's reference beside itself, in the words of a normal record."""
    reference = record.images[0]
    return replace(
        record,
        id=f"{Probe.SELF}:{change or 'same'}:{record.id}",
        images=(reference, replace(reference, role=Role.QUERY, change=change)),
        label=NORMAL,
        answer=answers.get(record.question, NORMAL),
        probe=Probe.SELF,
        of=(record.id,),
        change=change,
    )
