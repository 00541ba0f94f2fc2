"""MMAD's multiple choices about images of four data sets (Jiang et al., ICLR 2025).

The paper is arXiv:2410.09453. mmad.json maps an image's path to its row:
{"conversation": [{"Question", "Options": {"A": ...}, "Answer", "type"}],
"similar_templates": [paths of good images], "random_templates": [...]}.
Paths start from the folder of mmad.json: DS-MVTec/bottle/image/broken_large/000.png.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

import msgspec
from omegaconf import MISSING

from vlmbench.config import schema, setting
from vlmbench.data.invalid_rows import InvalidRow
from vlmbench.data.paths import is_folder
from vlmbench.data.rows.choices import choice_draft
from vlmbench.data.rows.read import decode, read_bytes
from vlmbench.data.rows.source import Draft, RowSourceConfig
from vlmbench.types import UserError

FILE = "mmad.json"


class Template(StrEnum):
    """The good image that is shown before the image in question."""

    none = "none"  # no image: zero-shot
    random = "random"  # the first of the row's random_templates
    similar = "similar"  # the first of the row's similar_templates


class Question(
    msgspec.Struct, rename={"question": "Question", "options": "Options", "answer": "Answer"}
):
    """A multiple choice. `type` is the subtask: Anomaly Detection, Defect Localization, ..."""

    question: str
    options: dict[str, str]
    answer: str
    type: str = ""


class MmadRow(msgspec.Struct):
    """The row of an image in mmad.json."""

    conversation: list[msgspec.Raw]
    similar_templates: list[str] = []
    random_templates: list[str] = []


@schema("source", "mmad")
@dataclass(kw_only=True)
class MmadConfig(RowSourceConfig):
    """`path` is mmad.json, or the folder that holds mmad.json and the data sets."""

    path: str = setting(
        MISSING, "File mmad.json, or the folder that holds it and the data sets.", cure="mmad.json"
    )
    template: Template = setting(
        Template.random, "Good image that is shown first: the row's first random or similar one."
    )

    def file(self) -> Path:
        path = Path(self.path)
        return path / FILE if is_folder(path) else path

    def drafts(self) -> Iterator[Draft | InvalidRow]:
        file = self.file()
        rows = decode(read_bytes(file), dict[str, msgspec.Raw], str(file))

        for image, content in rows.items():
            location = f"{file}: {image[:200]!r}"
            try:
                row = msgspec.json.decode(content, type=MmadRow)
                reference = self._template(row)
            except (UserError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                yield InvalidRow(location=location, reason=str(error))
                continue

            for number, question in enumerate(row.conversation, start=1):
                yield _draft(f"{location}, question {number}", number, image, reference, question)

    def _template(self, row: MmadRow) -> str | None:
        """Return the path of the row's template. Raise UserError if the row does not have one."""
        if self.template is Template.none:
            return None

        is_similar = self.template is Template.similar
        templates = row.similar_templates if is_similar else row.random_templates
        if not templates:
            raise UserError(
                f"source.template={self.template}: the row has no {self.template}_templates; set "
                "source.template=none"
            )

        return templates[0]


def _draft(
    location: str, number: int, image: str, reference: str | None, content: msgspec.Raw
) -> Draft | InvalidRow:
    try:
        question = msgspec.json.decode(content, type=Question)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return InvalidRow(location=location, reason=str(error))

    dataset, category = (*PurePosixPath(image).parts, "", "")[:2]

    return choice_draft(
        location=location,
        number=number,
        query=image,
        reference=reference,
        question=question.question,
        options=question.options,
        answer=question.answer.strip(),
        meta={"type": question.type, "dataset": dataset, "category": category},
    )
