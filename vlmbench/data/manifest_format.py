"""The format of a manifest's rows: their fields, their errors and their records."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec

from vlmbench.data.images import image_path_error
from vlmbench.data.labels import mapping_cure
from vlmbench.data.paths import find_path, normal_name, normal_path, normal_text
from vlmbench.system.text import typed_setting
from vlmbench.types import LABELS, NUM_IMAGES, ImageRef, Record, Role, Split, Task

MAX_TEXT = 4000  # characters in a question or an answer
MAX_NAME = 200  # characters in an id or a group
MAX_SHOWN = 60  # characters of a value that a message repeats


class ImageRow(msgspec.Struct, forbid_unknown_fields=True):
    """An image as the manifest writes it."""

    path: str
    role: Role
    view: str = "raw"
    sha256: str = ""


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """A record as the manifest writes it."""

    id: str
    task: Task
    group: str
    images: list[ImageRow]
    label: str = ""
    answer: str = ""
    question: str = ""
    options: dict[str, str] = {}
    split: Split | None = None
    meta: dict[str, str] = {}


def normal_row(row: Row) -> Row:
    """Give each name and path of a row its one spelling, in place, and return the row.

    Every reader of rows calls this first.
    """
    row.id = normal_name(row.id)
    row.group = normal_name(row.group)
    row.label = normal_name(row.label)
    row.answer = normal_text(row.answer)
    for image in row.images:
        image.path = normal_path(image.path)
        image.sha256 = image.sha256.lower()

    return row


def row_errors(
    row: Row,
    labels: Mapping[str, str],
    views: Collection[str],
    *,
    labelled: bool = True,
) -> Iterator[str]:
    """Yield a sentence with its cure for each error of a row.

    `labels` maps the user's words to the tasks' labels. `views` are the views that the run can
    show. If `labelled` is false, a row may have no label.
    """
    yield from _name_errors(row)
    yield from _option_errors(row)
    yield from _label_errors(row, labels, labelled=labelled)
    yield from _text_errors(row)
    yield from _role_errors(row)
    for image in row.images:
        yield from _image_errors(image, views)


def make_record(row: Row, folder: Path, labels: Mapping[str, str]) -> Record:
    """Return the record of a valid row. `folder` is the manifest's folder."""
    label = _task_label(row, labels)
    written = row.label if row.answer.startswith(row.label) else label
    answer = label + row.answer[len(written) :]

    images = tuple(
        ImageRef(
            path=find_path(folder, image.path),
            role=image.role,
            view=image.view,
            sha256=image.sha256,
        )
        for image in row.images
    )
    return Record(
        id=row.id,
        task=row.task,
        images=images,
        answer=answer,
        label=label,
        group=row.group,
        question=row.question,
        options=row.options,
        split=row.split,
        meta=row.meta,
    )


def _name_errors(row: Row) -> Iterator[str]:
    for name, text in (("id", row.id), ("group", row.group)):
        if not text or len(text) > MAX_NAME or not text.isprintable():
            yield (
                f"{name} {text[:MAX_SHOWN]!r} must be 1 to {MAX_NAME} printable characters; "
                f"give another {name}"
            )


def _text_errors(row: Row) -> Iterator[str]:
    for name, text in (("question", row.question), ("answer", row.answer)):
        if len(text) > MAX_TEXT:
            yield f"{name} has {len(text)} characters, the limit is {MAX_TEXT}; shorten it"


def _role_errors(row: Row) -> Iterator[str]:
    count, valid_counts = len(row.images), NUM_IMAGES[row.task]
    if count not in valid_counts:
        numbers = " or ".join(map(str, valid_counts))
        yield f"task {row.task} takes {numbers} images, the row has {count}; fix images"
        return

    roles = tuple(image.role for image in row.images)
    if roles != (Role.REFERENCE, Role.QUERY)[-count:]:
        valid_roles = "the reference, then the query" if count > 1 else "a query"
        yield f"roles are {', '.join(roles)}; task {row.task} takes {valid_roles}"


def _option_errors(row: Row) -> Iterator[str]:
    if row.task in LABELS:
        if row.options:
            yield (
                f"task {row.task} takes no options; leave them out, or set the task to "
                f"{Task.CHOOSE_OPTION}"
            )
        return

    if not row.question:
        yield f"task {row.task} needs a question; add one"
    if len(row.options) < 2:
        yield (
            f"task {row.task} needs at least two options, the row has {len(row.options)}; "
            "fix options"
        )

    for letter, text in row.options.items():
        if len(letter) != 1 or not letter.isalnum():
            yield (
                f"option {letter[:MAX_SHOWN]!r} must be named by one letter or digit; "
                "name options A, B, C"
            )
        if not text.strip() or len(text) > MAX_TEXT:
            yield (
                f"option {letter[:MAX_SHOWN]} must have 1 to {MAX_TEXT} characters, not only "
                f"spaces, and has {len(text)}; fix its text"
            )


def _task_label(row: Row, labels: Mapping[str, str]) -> str:
    """Return the task's label for the user's word. An option's letter is its own label."""
    return labels.get(row.label, row.label) if row.task in LABELS else row.label


def _label_errors(row: Row, labels: Mapping[str, str], *, labelled: bool) -> Iterator[str]:
    valid_labels = LABELS[row.task] if row.task in LABELS else tuple(row.options)
    choices = ", ".join(valid_labels)
    label = _task_label(row, labels)

    if not row.label:
        if labelled or row.answer:
            yield f"the row has no label; give it one of {choices}"
    elif label not in valid_labels:
        cure = f"write one of {choices}"
        if row.task in LABELS:
            cure = mapping_cure(row.label, valid_labels[-1], labels) or cure
        yield f"label {row.label!r} is not one of {choices}; {cure}"
    elif row.answer and not row.answer.startswith((row.label, label)):
        yield (
            f"answer {row.answer[:MAX_SHOWN]!r} does not start with the label {row.label!r}; "
            "put the label first"
        )


def _image_errors(image: ImageRow, views: Collection[str]) -> Iterator[str]:
    path_error = image_path_error(image.path)
    if path_error is not None:
        yield path_error

    if image.view not in views:
        yield (
            f"view {image.view!r} is not one of {', '.join(sorted(views))}; fix the row, or set "
            f"{typed_setting('view.name', image.view)}"
        )
