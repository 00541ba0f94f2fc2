"""Make draft records from the multiple choices of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping

from vlmbench.data.paths import normal_path
from vlmbench.data.rows.source import Draft
from vlmbench.types import Task

MAX_ID = 200  # characters of an id; a longer one loses its start


def choice_draft(
    *,
    location: str,
    number: int,
    query: str,
    reference: str | None,
    question: str,
    options: Mapping[str, str],
    answer: str,
    meta: Mapping[str, str],
) -> Draft:
    """Return a multiple choice about the image `query`, beside `reference` if there is one.

    The label is the letter of the right option. All questions about an image belong to one part.
    `number` counts the questions of an image.
    """
    images = (query,) if reference is None else (reference, query)

    return Draft(
        location=location,
        id=f"{query}#{number}"[-MAX_ID:],
        task=Task.CHOOSE_OPTION,
        images=images,
        label=answer,
        answer=answer,
        group=normal_path(query),
        question=question.strip(),
        options={letter.strip(): text for letter, text in options.items()},
        meta={key: value for key, value in meta.items() if value},
    )
