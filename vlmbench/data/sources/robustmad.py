"""The layout of RobustMAD's multiple choices about pictures of MVTec AD and VisA.

RobustMAD_MCQ.json: {"images": [{"image_path", "reference_image_path", "dataset", "category", "specie_name",
"questions": [{"question_id", "robustness_category", "question", "options": {"A": ...}, "answer": "A"}]}]}.
Questions of the pair-wise category show the reference, then the picture; the others the picture alone. Paths start from
the folder of the file. Open-ended questions have no options: they do not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vlmbench.config import schema
from vlmbench.data.rows.choices import choice_draft
from vlmbench.data.rows.read import decode, read_bytes
from vlmbench.data.rows.source import Draft, RowSourceConfig
from vlmbench.data.wrongs import Misfit

FILE = "RobustMAD_MCQ.json"
PAIRWISE = "pair-wise"  # in the category of questions that show two pictures


class RobustQuestion(msgspec.Struct):
    """One multiple choice."""

    question: str
    options: dict[str, str]
    answer: str
    robustness_category: str = ""


class RobustRow(msgspec.Struct):
    """What the file says of a picture."""

    image_path: str
    questions: list[msgspec.Raw]
    reference_image_path: str | None = None
    dataset: str = ""
    category: str = ""
    specie_name: str = ""


class RobustFile(msgspec.Struct):
    """The file as a whole."""

    images: list[msgspec.Raw]


@schema("source", "robustmad")
@dataclass(kw_only=True)
class RobustMadConfig(RowSourceConfig):
    """`path` is the folder that holds RobustMAD_MCQ.json and the data sets, or the file itself."""

    def file(self) -> Path:
        path = Path(self.path)
        return path / FILE if path.is_dir() else path

    def drafts(self) -> Iterator[Draft | Misfit]:
        for number, raw in enumerate(decode(read_bytes(self.file()), RobustFile, str(self.file())).images, start=1):
            place = f"{self.file()}: image {number}"
            try:
                row = msgspec.json.decode(raw, type=RobustRow)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                yield Misfit(place=place, why=str(error))
                continue
            for position, question in enumerate(row.questions, start=1):
                yield _draft(f"{place}, question {position}", position, row, question)


def _draft(place: str, number: int, row: RobustRow, raw: msgspec.Raw) -> Draft | Misfit:
    try:
        asked = msgspec.json.decode(raw, type=RobustQuestion)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Misfit(place=place, why=str(error))
    pairwise = PAIRWISE in asked.robustness_category.casefold()
    if pairwise and row.reference_image_path is None:
        return Misfit(place=place, why="a pair-wise question of a picture without reference_image_path; add it")
    return choice_draft(
        place=place,
        number=number,
        query=row.image_path,
        reference=row.reference_image_path if pairwise else None,
        question=asked.question,
        options=asked.options,
        answer=asked.answer.strip(),
        meta={
            "type": asked.robustness_category,
            "dataset": row.dataset,
            "category": row.category,
            "defect": row.specie_name.replace("_", " "),
        },
    )
