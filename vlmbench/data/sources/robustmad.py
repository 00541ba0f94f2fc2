"""RobustMAD's multiple choices about images of MVTec AD and VisA.

RobustMAD_MCQ.json: {"images": [{"image_path", "reference_image_path", "dataset", "category",
"specie_name", "questions": [{"question_id", "robustness_category", "question",
"options": {"A": ...}, "answer": "A"}]}]}.
Questions of the pair-wise category show the reference, then the image. The others show the image
alone. Paths start from the file's folder. Open-ended questions have no options, so they are
invalid rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from omegaconf import MISSING

from vlmbench.config import schema, setting
from vlmbench.data.invalid_rows import InvalidRow
from vlmbench.data.paths import is_folder
from vlmbench.data.rows.choices import choice_draft
from vlmbench.data.rows.read import decode, read_bytes
from vlmbench.data.rows.source import Draft, RowSourceConfig

FILE = "RobustMAD_MCQ.json"
PAIRWISE = "pair-wise"  # part of the category of questions that show two images


class RobustQuestion(msgspec.Struct):
    """A multiple choice."""

    question: str
    options: dict[str, str]
    answer: str
    robustness_category: str = ""


class RobustRow(msgspec.Struct):
    """An image of the file, with its questions."""

    image_path: str
    questions: list[msgspec.Raw]
    reference_image_path: str | None = None
    dataset: str = ""
    category: str = ""
    specie_name: str = ""


class RobustFile(msgspec.Struct):
    """The whole file."""

    images: list[msgspec.Raw]


@schema("source", "robustmad")
@dataclass(kw_only=True)
class RobustMadConfig(RowSourceConfig):
    """`path` is RobustMAD_MCQ.json, or the folder that holds the file and the data sets."""

    path: str = setting(
        MISSING,
        "File RobustMAD_MCQ.json, or the folder that holds it and the data sets.",
        cure="RobustMAD_MCQ.json",
    )

    def file(self) -> Path:
        path = Path(self.path)
        return path / FILE if is_folder(path) else path

    def drafts(self) -> Iterator[Draft | InvalidRow]:
        file = self.file()
        rows = decode(read_bytes(file), RobustFile, str(file)).images

        for number, content in enumerate(rows, start=1):
            location = f"{file}: image {number}"
            try:
                row = msgspec.json.decode(content, type=RobustRow)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                yield InvalidRow(location=location, reason=str(error))
                continue

            for position, question in enumerate(row.questions, start=1):
                yield _draft(f"{location}, question {position}", position, row, question)


def _draft(location: str, number: int, row: RobustRow, content: msgspec.Raw) -> Draft | InvalidRow:
    try:
        question = msgspec.json.decode(content, type=RobustQuestion)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return InvalidRow(location=location, reason=str(error))

    is_pairwise = PAIRWISE in question.robustness_category.casefold()
    if is_pairwise and row.reference_image_path is None:
        return InvalidRow(
            location=location,
            reason="the pair-wise question has no reference_image_path; add it to the image",
        )

    return choice_draft(
        location=location,
        number=number,
        query=row.image_path,
        reference=row.reference_image_path if is_pairwise else None,
        question=question.question,
        options=question.options,
        answer=question.answer.strip(),
        meta={
            "type": question.robustness_category,
            "dataset": row.dataset,
            "category": row.category,
            "defect": row.specie_name.replace("_", " "),
        },
    )
