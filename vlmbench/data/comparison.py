"""Comparison records: those that show how pictures relate, not whether a part is good."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum

from vlmbench.types import Task, UserError


class Comparison(StrEnum):
    """The two kinds that the article adds."""

    views = "views"  # one part, raw and processed
    shapes = "shapes"  # prism and cylinder


TASK_OF = {Comparison.views: Task.COMPARE_VIEWS, Comparison.shapes: Task.COMPARE_SHAPES}


def comparison_tasks(kinds: Iterable[Comparison], tasks: Collection[Task]) -> list[Task]:
    """The tasks of those kinds that `tasks`, what the source has, contains. Raises UserError where it has none."""
    wanted = [TASK_OF[kind] for kind in kinds]
    found = [task for task in wanted if task in tasks]
    if not found:
        raise UserError(
            f"data.comparison={','.join(kinds)}: the training side has no {' or '.join(wanted)} record; choose "
            "data=without_comparison, or a source that writes them (of photos: source.compare_views=true, and a view "
            "beside raw)"
        )
    return found


def missing_kinds(kinds: Iterable[Comparison], tasks: Collection[Task]) -> list[str]:
    """A sentence for each kind that the source has no records of."""
    return [
        f"data.comparison asks for {kind}, but the source has no {TASK_OF[kind]} record: nothing was added for it"
        for kind in kinds
        if TASK_OF[kind] not in tasks
    ]
