"""What the variants share."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vlmbench.types import Record, Task, UserError


def of_tasks(records: Sequence[Record], tasks: Collection[Task]) -> list[int]:
    """The positions of the records of some tasks, in order. Raises UserError where one of the tasks has none."""
    chosen = [(position, record.task) for position, record in enumerate(records) if record.task in tasks]
    for task in tasks:
        if all(task != other for _, other in chosen):
            raise UserError(
                f"data: the training side has no {task} record; choose another data= or a source that writes them"
            )
    return [position for position, _ in chosen]
