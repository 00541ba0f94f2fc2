"""The kinds of comparison records: records on how images relate, not on whether a part is good."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum

from vlmbench.types import Task, UserError


class ComparisonKind(StrEnum):
    """The two kinds of comparison records that the article adds."""

    views = "views"  # one part, raw and processed
    shapes = "shapes"  # prism and cylinder


TASK_OF_KIND = {
    ComparisonKind.views: Task.COMPARE_VIEWS,
    ComparisonKind.shapes: Task.COMPARE_SHAPES,
}


def comparison_tasks(kinds: Iterable[ComparisonKind], tasks: Collection[Task]) -> list[Task]:
    """Return the tasks of `kinds` that are in `tasks`, the tasks that the source has.

    Raises UserError if `tasks` has none of them.
    """
    wanted = [TASK_OF_KIND[kind] for kind in kinds]
    available = [task for task in wanted if task in tasks]
    if not available:
        raise UserError(
            f"data.comparison={','.join(kinds)}: the training split has no {' or '.join(wanted)} "
            "record; choose data=without_comparison, or a source that writes such records (a "
            "source of photos does with source.compare_views=true and a view other than raw)"
        )
    return available


def explain_missing_kinds(kinds: Iterable[ComparisonKind], tasks: Collection[Task]) -> list[str]:
    """Return a sentence for each kind that the source has no records of."""
    missing = [kind for kind in kinds if TASK_OF_KIND[kind] not in tasks]
    return [
        f"data.comparison asks for {kind}, but the source has no {TASK_OF_KIND[kind]} record: "
        "nothing was added for it"
        for kind in missing
    ]
