"""The records of one run: selections of a manifest's records, checked and limited."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from vlmbench.data.manifest import SPLITS, TASKS, Indices, Manifest, SplitIndices
from vlmbench.types import LABELS, Record, Split, Task, UserError


@dataclass(frozen=True, slots=True, eq=False)
class Subset(Sequence[Record]):
    """A selection of a manifest's records, decoded on access. An index may occur more than once."""

    manifest: Manifest
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Subset: ...
    def __getitem__(self, index: int | slice) -> Record | Subset:
        if isinstance(index, slice):
            return Subset(self.manifest, self.indices[index])

        return self.manifest[int(self.indices[index])]

    def location(self, index: int) -> str:
        """Return the file and line of a record, for messages: "mine.jsonl:812"."""
        return self.manifest.location(int(self.indices[index]))

    def count_tasks(self) -> dict[Task, int]:
        """Return the number of records of each task that occurs."""
        tasks = self.manifest.tasks[self.indices]
        counts = np.bincount(tasks, minlength=len(TASKS)).tolist()
        return {task: count for task, count in zip(TASKS, counts, strict=True) if count}

    def count_parts(self) -> int:
        """Return the number of different parts."""
        groups = self.manifest.groups[self.indices]
        return len(np.unique(groups))

    def kinds(self, tasks: Collection[Task]) -> set[tuple[Task, str]]:
        """Return the (task, view) pairs of the records with one of these tasks."""
        return {(record.task, record.view) for record in self if record.task in tasks}

    def of_kinds(self, kinds: Collection[tuple[Task, str]]) -> Subset:
        """Return the records of these (task, view) pairs."""
        chosen = [index for index, record in enumerate(self) if (record.task, record.view) in kinds]
        return Subset(self.manifest, self.indices[chosen])

    def spread(self, limit: int) -> Subset:
        """Return at most `limit` of the records, evenly spread."""
        if len(self) <= limit:
            return self

        chosen = np.linspace(0, len(self) - 1, limit).round().astype(np.int64)
        return Subset(self.manifest, self.indices[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet(Sequence[Record]):
    """The records that train: those selected from the manifest, then those made from them."""

    chosen: Subset
    made: tuple[Record, ...] = ()

    def __len__(self) -> int:
        return len(self.chosen) + len(self.made)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]

        position = range(len(self))[index]  # raises IndexError, as a list does
        beyond = position - len(self.chosen)
        return self.chosen[position] if beyond < 0 else self.made[beyond]

    def count_tasks(self) -> dict[Task, int]:
        """Return the number of records of each task that occurs."""
        counts = Counter(record.task for record in self.made)
        counts.update(self.chosen.count_tasks())
        return {task: counts[task] for task in TASKS if counts[task]}

    def kinds(self, tasks: Collection[Task]) -> set[tuple[Task, str]]:
        """Return the (task, view) pairs of the records with one of these tasks."""
        return self.chosen.kinds(tasks)


def records_of_split(manifest: Manifest, splits: SplitIndices, split: Split) -> Subset:
    """Return the records of one split. `splits` (N,) holds an index into SPLITS for each record."""
    is_member = splits == SPLITS.index(split)
    indices = np.flatnonzero(is_member).astype(np.int64)
    return Subset(manifest, indices)


def check_labels(
    records: Subset, split: Split, tasks: Collection[Task], *, good_alone: bool = False
) -> None:
    """Raise UserError if a task has only one label in a split.

    A model can learn nothing from one label, and no figure can be measured on it. With
    `good_alone`, records of the negative label suffice.
    """
    labels: dict[Task, set[str]] = {task: set() for task in tasks}
    for record in records:
        if record.task not in labels:
            continue

        labels[record.task].add(record.label)
        if all(len(seen) == len(LABELS[task]) for task, seen in labels.items()):
            return

    for task, seen in labels.items():
        missing_labels = set(LABELS[task]) - seen
        if good_alone:
            missing_labels.discard(LABELS[task][1])
        for missing in missing_labels:
            raise UserError(
                f"{records.manifest.path}: the {split} split has no {task} record with the label "
                f"{missing!r}; add such records or more parts, or change data.split"
            )


def limit_records(records: Subset, limit: int | None) -> Subset:
    """Return at most `limit` records of each task and view, spread evenly over the split."""
    if limit is None:
        return records

    by_task_view: dict[tuple[Task, str], list[int]] = defaultdict(list)
    for position, record in enumerate(records):
        task_view = record.task, record.view
        by_task_view[task_view].append(position)

    chosen: list[int] = []
    for positions in by_task_view.values():
        count = min(limit, len(positions))
        steps = np.linspace(0, len(positions) - 1, count).round()
        chosen += [positions[int(step)] for step in steps]

    return Subset(records.manifest, records.indices[sorted(chosen)])
