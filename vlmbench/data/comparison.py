"""Comparison records: those that show how pictures relate, not whether a part is good."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from vlmbench.types import Task


class Comparison(StrEnum):
    """The two kinds that the article adds."""

    views = "views"  # one part, raw and processed
    shapes = "shapes"  # prism and cylinder


TASK_OF = {Comparison.views: Task.COMPARE_VIEWS, Comparison.shapes: Task.COMPARE_SHAPES}


def comparison_tasks(kinds: Iterable[Comparison]) -> list[Task]:
    """The tasks of some kinds of comparison record."""
    return [TASK_OF[kind] for kind in kinds]
