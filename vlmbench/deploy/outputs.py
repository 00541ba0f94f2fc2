"""Judgements as files: JSON lines for programs, CSV for spreadsheets, a page to look at."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmbench.data.tiles import deciding_tile
from vlmbench.runs.folder import to_json
from vlmbench.system.files import write_whole
from vlmbench.types import Judgement

COLUMNS = (
    *("id", "task", "view", "reference", "query", "decision", "score", "calibrated", "threshold"),
    *("look_from", "look_to"),
    *("label", "sentence", "expected", "error"),
)
JOIN_COLUMNS = ("part", "row", "decided_by")
TILE_COLUMNS = ("tile",)
# First characters that make a spreadsheet take a text for a formula; also in their wide and small
# forms, and after spaces of any kind.
FORMULA = ("=", "+", "-", "@")
BREAKS = ("\t", "\r", "\n")
BOM = "\ufeff"  # without it Excel reads UTF-8 as the machine's old code page


def row_of(judgement: Judgement) -> dict[str, Any]:
    """Return a judgement as plain values.

    `label` is the likelier label; `decision` follows from score and threshold. An answer that joins
    several records also has `decided_by` and `singles`, and the answer to an image that was cut has
    `tile`: x, y, width and height of the deciding one in pixels of the query.
    """
    prediction = judgement.prediction
    scores = None if prediction is None else dict(prediction.scores)
    row: dict[str, Any] = {
        "id": judgement.id,
        "task": str(judgement.task),
        "view": None if prediction is None else prediction.view,
        "images": list(judgement.images),
        "decision": judgement.decision,
        "score": judgement.score,
        "calibrated": judgement.calibrated,
        "threshold": judgement.threshold,
        "look_from": judgement.look_from,
        "look_to": judgement.look_to,
        "label": None if prediction is None else prediction.predicted,
        "log_probabilities": scores,
        "sentence": judgement.sentence,
        "expected": judgement.expected,
        "error": judgement.error,
    }
    tile = None if prediction is None else deciding_tile(prediction)
    if tile is not None:
        row["tile"] = list(tile)
    if judgement.singles:
        singles = [row_of(single) for single in judgement.singles]
        row |= {"decided_by": judgement.decided_by, "singles": singles}
    return row


def csv_text(judgements: Sequence[Judgement]) -> str:
    """Return comma-separated values.

    A text that a spreadsheet would run as a formula gets an apostrophe in front. Below an answer
    that joins several records, their rows follow.
    """
    joined = any(judgement.singles for judgement in judgements)
    columns = (*JOIN_COLUMNS, *COLUMNS) if joined else COLUMNS
    rows = [(part, each, row_of(each)) for part, each in _with_singles(judgements)]
    if any("tile" in row for _, _, row in rows):
        columns = (*columns, *TILE_COLUMNS)

    target = io.StringIO()
    writer = csv.DictWriter(target, columns, extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()

    for part, judgement, row in rows:
        reference = judgement.images[0] if len(judgement.images) > 1 else ""
        row |= {"reference": reference, "query": judgement.images[-1]}
        row |= {"part": part, "row": "part" if judgement.singles else "record"}
        row["tile"] = " ".join(map(str, row.get("tile", ())))
        writer.writerow({name: _harmless(value) for name, value in row.items()})
    return BOM + target.getvalue()


def write_judgements(folder: Path, judgements: Sequence[Judgement], *, page: str) -> Path:
    """Write answers.jsonl, answers.csv and the page index.html; return the path of the page."""
    target = folder / "index.html"
    lines = [to_json(row_of(judgement), indent=None) + "\n" for judgement in judgements]

    write_whole(folder / "answers.jsonl", "".join(lines))
    write_whole(folder / "answers.csv", csv_text(judgements))
    write_whole(target, page)
    return target


def _with_singles(judgements: Sequence[Judgement]) -> Iterator[tuple[str, Judgement]]:
    """Yield each judgement, then those that it joins, with the part's name."""
    for judgement in judgements:
        yield judgement.id, judgement
        for single in judgement.singles:
            yield judgement.id, single


def _harmless(value: Any) -> Any:
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    line = "".join(char if char.isprintable() else " " for char in value)
    starts_formula = unicodedata.normalize("NFKC", line).lstrip().startswith(FORMULA)
    return f"'{line}" if starts_formula or value.startswith(BREAKS) else line
