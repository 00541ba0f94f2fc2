"""The answer of the served page to dropped images: the judgement, and controls of its grounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmbench.deploy.loaded import LoadedRun
from vlmbench.deploy.outputs import row_of
from vlmbench.deploy.requests import image_record
from vlmbench.types import LABELS, Judgement, Record

# Key in the JSON answer -> words on the page, of each control in order.
CONTROLS = {
    "blank_reference": "with a grey image instead of the reference",
    "swapped": "with the two images swapped",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The judgement of dropped images, and the same model's answers to the CONTROLS."""

    judgement: Judgement
    controls: tuple[Judgement, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; images are given by their names alone."""
        names = [Path(path).name for path in self.judgement.images]
        row = row_of(self.judgement) | {"images": names}
        del row["id"], row["expected"], row["error"]

        controls = {
            name: {"label": control.decision, "score": control.score}
            for name, control in zip(CONTROLS, self.controls, strict=False)
        }
        positive = LABELS[self.judgement.task][1]
        return {**row, "positive_label": positive, "controls": controls}


def judge_images(loaded: LoadedRun, paths: Sequence[Path], *, view: str) -> Evidence:
    """Judge a reference and a query with their controls, or one image."""
    record = image_record("dropped", paths, view)
    (judgement,) = loaded.judge([record], sentence=True)
    return Evidence(judgement=judgement, controls=tuple(loaded.judge(_controls(record))))


def _controls(record: Record) -> list[Record]:
    if len(record.images) < 2:
        return []

    reference, query = record.images
    pairs = {
        "blank_reference": (replace(reference, blank=True), query),
        "swapped": (query, reference),
    }
    return [replace(record, id=name, images=pairs[name]) for name in CONTROLS]
