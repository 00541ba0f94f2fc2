"""What a page shows of dropped pictures: the judgement, and controls of what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmbench.judge.asked import picture_record
from vlmbench.judge.finished import Finished
from vlmbench.judge.outputs import row_of
from vlmbench.types import LABELS, Judgement, Record

CONTROLS = ("with a grey picture instead of the reference", "with the two pictures swapped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is said of dropped pictures. `controls` are the same judge's answers to the pictures of CONTROLS."""

    judgement: Judgement
    controls: tuple[Judgement, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, pictures by their names alone."""
        row = row_of(self.judgement) | {"images": [Path(path).name for path in self.judgement.images]}
        del row["id"], row["expected"], row["error"]
        answers = zip(("blank_reference", "swapped"), self.controls, strict=False)
        controls = {name: {"label": one.decision, "score": one.score} for name, one in answers}
        return {**row, "positive_label": LABELS[self.judgement.task][1], "controls": controls}


def evidence_of(finished: Finished, paths: Sequence[Path], *, view: str) -> Evidence:
    """Judge the pictures (a reference and a query, or one), and the controls of a pair."""
    record = picture_record("dropped", paths, view)
    (judgement,) = finished.judge([record], sentence=True)
    return Evidence(judgement=judgement, controls=tuple(finished.judge(_controls(record), sentence=False)))


def _controls(record: Record) -> list[Record]:
    if len(record.images) < 2:
        return []
    reference, query = record.images
    blank, swapped = (replace(reference, blank=True), query), (query, reference)
    return [replace(record, id=f"control {i}", images=images) for i, images in enumerate((blank, swapped))]
