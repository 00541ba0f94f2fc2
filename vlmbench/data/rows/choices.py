"""Benchmarks of multiple choices: what their rows have in common, and how they become drafts."""

from __future__ import annotations

from collections.abc import Mapping

from vlmbench.data.rows.source import Draft
from vlmbench.types import Task


def choice_draft(
    *,
    place: str,
    number: int,
    query: str,
    reference: str | None,
    question: str,
    options: Mapping[str, str],
    answer: str,
    meta: Mapping[str, str],
) -> Draft:
    """A multiple choice about one picture, or about one beside its reference: the label is the right option's letter.

    All questions about a picture belong to one part. `number` tells a picture's questions apart.
    """
    return Draft(
        place=place,
        id=f"{query}#{number}"[-200:],
        task=Task.CHOOSE_OPTION,
        pictures=(query,) if reference is None else (reference, query),
        label=answer,
        answer=answer,
        group=query,
        question=question.strip(),
        options={letter.strip(): text for letter, text in options.items()},
        meta={key: value for key, value in meta.items() if value},
    )
