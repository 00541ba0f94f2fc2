"""The layout of MMAD (Jiang et al., ICLR 2025, arXiv:2410.09453): multiple choices about pictures of four data sets.

mmad.json maps a picture's path to its row: {"conversation": [{"Question", "Options": {"A": ...}, "Answer", "type"}],
"similar_templates": [paths of good pictures], "random_templates": [...]}. Paths start from the folder of mmad.json:
DS-MVTec/bottle/image/broken_large/000.png.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

import msgspec

from vlmbench.config import schema
from vlmbench.data.rows.choices import choice_draft
from vlmbench.data.rows.read import decode, read_bytes
from vlmbench.data.rows.source import Draft, RowSourceConfig
from vlmbench.data.wrongs import Misfit
from vlmbench.types import UserError

FILE = "mmad.json"


class Template(StrEnum):
    """The good picture beside the one in question."""

    none = "none"  # no picture: zero-shot
    random = "random"  # the first of the row's random_templates
    similar = "similar"  # the first of its similar_templates


class Question(msgspec.Struct, rename={"question": "Question", "options": "Options", "answer": "Answer"}):
    """One multiple choice; `type` is the subtask: Anomaly Detection, Defect Localization, ..."""

    question: str
    options: dict[str, str]
    answer: str
    type: str = ""


class MmadRow(msgspec.Struct):
    """What mmad.json says of a picture."""

    conversation: list[msgspec.Raw]
    similar_templates: list[str] = []
    random_templates: list[str] = []


@schema("source", "mmad")
@dataclass(kw_only=True)
class MmadConfig(RowSourceConfig):
    """`path` is the folder that holds mmad.json and the data sets, or the file itself."""

    template: Template = Template.random

    def file(self) -> Path:
        path = Path(self.path)
        return path / FILE if path.is_dir() else path

    def drafts(self) -> Iterator[Draft | Misfit]:
        rows = decode(read_bytes(self.file()), dict[str, msgspec.Raw], str(self.file()))
        for picture, raw in rows.items():
            place = f"{self.file()}: {picture[:200]!r}"
            try:
                row = msgspec.json.decode(raw, type=MmadRow)
                reference = self._template(row)
            except (UserError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                yield Misfit(place=place, why=str(error))
                continue
            for number, question in enumerate(row.conversation, start=1):
                yield _draft(f"{place}, question {number}", number, picture, reference, question)

    def _template(self, row: MmadRow) -> str | None:
        if self.template is Template.none:
            return None
        found = row.similar_templates if self.template is Template.similar else row.random_templates
        if not found:
            raise UserError(f"no {self.template}_templates; choose another source.template, or none")
        return found[0]


def _draft(place: str, number: int, picture: str, reference: str | None, raw: msgspec.Raw) -> Draft | Misfit:
    try:
        asked = msgspec.json.decode(raw, type=Question)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Misfit(place=place, why=str(error))
    dataset, category = (*PurePosixPath(picture).parts, "", "")[:2]
    return choice_draft(
        place=place,
        number=number,
        query=picture,
        reference=reference,
        question=asked.question,
        options=asked.options,
        answer=asked.answer.strip(),
        meta={"type": asked.type, "dataset": dataset, "category": category},
    )
