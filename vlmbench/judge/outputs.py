"""Judgements as files: JSON lines for programs, CSV for spreadsheets, a page to look at."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmbench.files import write_whole
from vlmbench.report.judgements import judgement_page
from vlmbench.rundir import to_json
from vlmbench.types import Estimate, Judgement

COLUMNS = (
    *("id", "task", "view", "reference", "query", "decision", "score", "calibrated", "threshold"),
    *("label", "sentence", "expected", "error"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # what a spreadsheet would take for a formula
BOM = "\ufeff"  # without it Excel reads UTF-8 as the machine's old code page


def row_of(judgement: Judgement) -> dict[str, Any]:
    """A judgement as plain values; `label` is the likelier one, `decision` what follows from score and threshold."""
    one, said = judgement, judgement.prediction
    return {
        "id": one.id,
        "task": str(one.task),
        "view": None if said is None else said.view,
        "images": list(one.images),
        "decision": one.decision,
        "score": one.score,
        "calibrated": one.calibrated,
        "threshold": one.threshold,
        "label": None if said is None else said.predicted,
        "log_probabilities": None if said is None else dict(said.scores),
        "sentence": one.sentence,
        "expected": one.expected,
        "error": one.error,
    }


def csv_text(judgements: Sequence[Judgement]) -> str:
    """Comma-separated values; a text that a spreadsheet would run as a formula is put after an apostrophe."""
    target = io.StringIO()
    writer = csv.DictWriter(target, COLUMNS, extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    for judgement in judgements:
        reference = judgement.images[0] if len(judgement.images) > 1 else ""
        row = row_of(judgement) | {"reference": reference, "query": judgement.images[-1]}
        writer.writerow({name: _harmless(value) for name, value in row.items()})
    return BOM + target.getvalue()


def write_judgements(
    folder: Path,
    title: str,
    judgements: Sequence[Judgement],
    *,
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str],
    figures: Mapping[str, Estimate],
    most: int,
) -> Path:
    """Write answers.jsonl, answers.csv and index.html into the folder; give the page's path."""
    page = folder / "index.html"
    lines = (to_json(row_of(one), indent=None) + "\n" for one in judgements)
    write_whole(folder / "answers.jsonl", "".join(lines))
    write_whole(folder / "answers.csv", csv_text(judgements))
    html = judgement_page(title, judgements, facts=facts, notes=notes, figures=figures, most=most)
    write_whole(page, html)
    return page


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        line = "".join(char if char.isprintable() else " " for char in value)
        return f"'{line}" if value.lstrip(" ").startswith(FORMULA) else line
    return "" if value is None else value
