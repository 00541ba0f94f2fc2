"""The selection that all variants share."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vlmbench.types import Record, Task, UserError


def positions_of_tasks(records: Sequence[Record], tasks: Collection[Task]) -> list[int]:
    """Return the positions of the records of `tasks`, in order.

    Raises UserError if one of the tasks has no record.
    """
    task_of_position = {
        position: record.task for position, record in enumerate(records) if record.task in tasks
    }
    available = set(task_of_position.values())
    for task in tasks:
        if task not in available:
            raise UserError(
                f"data: the training split has no {task} record; choose another data=, or a source "
                "that writes such records"
            )

    return list(task_of_position)
