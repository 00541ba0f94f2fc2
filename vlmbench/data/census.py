"""Count a run's data: records by split, task, view and label, and the leaks between splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from vlmbench.data.load import MAX_LEAKS, Data
from vlmbench.data.nearest import describe_near
from vlmbench.data.prompts import Wording
from vlmbench.data.records import Subset
from vlmbench.types import JUDGING, LABELS, PLANTED, Record, Split, Task

TaskView = tuple[str, str]
Counts = tuple[int, int, int]  # records, records with the positive label, parts


def census(data: Data) -> dict[str, Any]:
    """Return the counts of a run's data, ready for JSON.

    `splits` has a row for each split, task and view: the records of each label, and the number of
    parts. `images` is the number of images. `leaks` has the number of allowed leaks (`found`) and
    the messages of the first ones (`first`). `nearest` has the pairs of images in different splits
    that are most alike.
    """
    rows: list[dict[str, Any]] = []
    for split in Split:
        records = getattr(data, split.value)
        rows += _split_rows(split, records)

    first_leaks = list(data.leaks[:MAX_LEAKS])
    return {
        "splits": rows,
        "images": len(data.facts),
        "leaks": {"found": len(data.leaks), "first": first_leaks},
        "nearest": _nearest(data),
    }


def validation_counts(
    records: Iterable[Record],
    kinds: Iterable[tuple[Task, str]],
) -> dict[TaskView, Counts]:
    """Return the counts of the validation records for each judging task and view in `kinds`.

    The counts are: records, records with the positive label, parts.
    """
    by_task_view: dict[TaskView, list[Record]] = {}
    for task, view in kinds:
        if task in JUDGING:
            by_task_view[task, view] = []

    for record in records:
        task_view = record.task, record.view
        if task_view in by_task_view:
            by_task_view[task_view].append(record)

    return {task_view: _count_records(members) for task_view, members in by_task_view.items()}


def questions(records: Iterable[Record], wording: Wording) -> dict[str, str]:
    """Return the most frequent question of each judging task; of equally frequent, the first."""
    counts: dict[Task, Counter[str]] = defaultdict(Counter)
    for record in records:
        if record.task in JUDGING:
            question = wording.question(record)
            counts[record.task][question] += 1

    result = {}
    for task, questions_of_task in counts.items():
        [(question, _)] = questions_of_task.most_common(1)
        result[str(task)] = question
    return result


def _nearest(data: Data) -> list[dict[str, Any]]:
    """Return the nearest pairs with absolute paths, which the report opens."""
    folder = data.manifest.folder.resolve()
    pairs = describe_near(data.manifest, data.near)
    return [
        pair | {"images": [str((folder / name).resolve()) for name in pair["images"]]}
        for pair in pairs
    ]


def _count_records(records: list[Record]) -> Counts:
    positive = sum(record.label == LABELS[record.task][1] for record in records)
    parts = {record.group for record in records}
    return len(records), positive, len(parts)


def _split_rows(split: Split, records: Subset) -> Iterator[dict[str, Any]]:
    labels: dict[TaskView, Counter[str]] = defaultdict(Counter)
    parts: dict[TaskView, set[str]] = defaultdict(set)
    planted: Counter[TaskView] = Counter()
    for record in records:
        task_view = (str(record.task), record.view)
        planted[task_view] += PLANTED in record.meta
        labels[task_view][record.label] += 1
        parts[task_view].add(record.group)

    for (task, view), counts in labels.items():
        number = planted[task, view]
        yield {
            "split": str(split),
            "task": task,
            "view": view,
            "labels": dict(sorted(counts.items())),
            "parts": len(parts[task, view]),
            **({"planted": number} if number else {}),
        }
