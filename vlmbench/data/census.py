"""What an experiment's data hold, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from vlmbench.data.dataset import Subset
from vlmbench.data.load import MAX_LEAKS, Data
from vlmbench.data.prompts import Wording
from vlmbench.types import JUDGING, LABELS, Record, Split, Task


def census(data: Data) -> dict[str, Any]:
    """`sides`: a row for each side, task and view with its records of each label, and its parts; `pictures`: how many
    were read; `leaks`: how many were found (and allowed), and the first of them in words."""
    return {
        "sides": [row for split in Split for row in _rows(split, getattr(data, split.value))],
        "pictures": len(data.facts),
        "leaks": {"found": len(data.leaks), "first": list(data.leaks[:MAX_LEAKS])},
    }


def validation_counts(
    records: Iterable[Record], kinds: Iterable[tuple[Task, str]]
) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Of each judging task and view among `kinds`: validation records, those of the positive label, their parts."""
    found: dict[tuple[str, str], list[Record]] = {(task, view): [] for task, view in kinds if task in JUDGING}
    for record in records:
        if (record.task, record.view) in found:
            found[record.task, record.view].append(record)
    return {
        (task, view): (
            len(some),
            sum(record.label == LABELS[record.task][1] for record in some),
            len({record.group for record in some}),
        )
        for (task, view), some in found.items()
    }


def questions(records: Iterable[Record], wording: Wording) -> dict[str, str]:
    """Of each judging task the question that most of its records ask, the first of several."""
    asked: dict[Task, Counter[str]] = {}
    for record in records:
        if record.task in JUDGING:
            asked.setdefault(record.task, Counter())[wording.question(record)] += 1
    return {str(task): counts.most_common(1)[0][0] for task, counts in asked.items()}


def _rows(split: Split, records: Subset) -> Iterator[dict[str, Any]]:
    labels: dict[tuple[str, str], Counter[str]] = {}
    parts: dict[tuple[str, str], set[str]] = {}
    for record in records:
        place = (str(record.task), record.view)
        labels.setdefault(place, Counter())[record.label] += 1
        parts.setdefault(place, set()).add(record.group)
    for (task, view), counts in labels.items():
        by_label = dict(sorted(counts.items()))
        yield {"side": str(split), "task": task, "view": view, "labels": by_label, "parts": len(parts[task, view])}
