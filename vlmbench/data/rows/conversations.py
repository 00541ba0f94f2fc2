"""Conversations with images, in the formats of LLaVA and ShareGPT.

A row holds image paths and turns: a question, then an answer that starts with a label. The
question has an `<image>` placeholder for each image. A record shows its images before its words,
so all placeholders are removed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vlmbench.config import setting
from vlmbench.data.invalid_rows import InvalidRow
from vlmbench.data.paths import normal_name, normal_path, normal_text
from vlmbench.data.photos.source import check_label_words
from vlmbench.data.rows.read import decode, read_rows
from vlmbench.data.rows.source import Draft, RowSourceConfig
from vlmbench.types import LABELS, Task, UserError

PLACEHOLDER = "<image>"
TASK_OF = {1: Task.JUDGE_SINGLE, 2: Task.JUDGE_PAIR}  # by the number of images
QUESTION_SPEAKERS = ("human", "user")
ANSWER_SPEAKERS = ("gpt", "assistant")
SYSTEM_SPEAKERS = ("system",)
MAX_QUOTED_SPEAKERS = 100  # characters in an error message
MAX_QUOTED_ANSWER = 60  # characters in an error message


class Turn(msgspec.Struct):
    """A message of a conversation."""

    speaker: str
    text: str


class NamedTurn(msgspec.Struct):
    """A turn of a LLaVA or ShareGPT file: {"from": "human", "value": "..."}."""

    value: str
    speaker: str = msgspec.field(name="from")

    def to_turn(self) -> Turn:
        """Return the turn in the common form."""
        return Turn(speaker=self.speaker, text=self.value)


class RoleTurn(msgspec.Struct):
    """A turn in the form of chat models: {"role": "user", "content": "..."}."""

    role: str
    content: str

    def to_turn(self) -> Turn:
        """Return the turn in the common form."""
        return Turn(speaker=self.role, text=self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A row: its image paths and its turns."""

    images: tuple[str, ...]
    turns: tuple[Turn, ...]


@dataclass(kw_only=True)
class ConversationConfig(RowSourceConfig):
    """A source of conversations.

    `labels` maps the first words of answers to "normal" and "abnormal". `group` is the key of a
    row that names its part. Without it, each last image of a row is a part of its own. With
    `questions`, records keep the rows' own questions.
    """

    group: str | None = setting(
        None, "Key of a row that names its part; null: each last image is a part of its own."
    )
    questions: bool = setting(True, "Keep the rows' questions; false: use those of prompt=.")

    def __post_init__(self) -> None:
        RowSourceConfig.__post_init__(self)
        check_label_words(self.labels)

    @abstractmethod
    def conversation(self, row: msgspec.Raw) -> Conversation:
        """Return the row's conversation. Raise UserError or msgspec's errors for an invalid row."""

    def file(self) -> Path:
        return Path(self.path)

    def drafts(self) -> Iterator[Draft | InvalidRow]:
        for number, (location, row) in enumerate(read_rows(self.file()), start=1):
            try:
                yield self._draft(number, location, row)
            except (UserError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                reason = str(error).removeprefix(f"{location}: ")
                yield InvalidRow(location=location, reason=reason)

    def _draft(self, number: int, location: str, row: msgspec.Raw) -> Draft:
        conversation = self.conversation(row)
        question, answer = question_and_answer(conversation)
        label, rest = split_label(answer, self.labels)
        fields = decode(row, dict[str, Any], location)

        row_id = fields.get("id")
        meta = {"row": str(row_id)} if isinstance(row_id, str | int) else {}

        return Draft(
            location=location,
            id=f"row-{number}",
            task=TASK_OF[len(conversation.images)],
            images=conversation.images,
            label=label,
            answer=label + rest,
            group=self._group(fields, conversation),
            question=question if self.questions else "",
            meta=meta,
        )

    def _group(self, fields: Mapping[str, Any], conversation: Conversation) -> str:
        """Return the name of the row's part. Raise UserError if the row does not have one."""
        if self.group is None:
            return normal_path(conversation.images[-1])

        group = fields.get(self.group)
        if not isinstance(group, str | int):
            raise UserError(
                f"source.group={self.group}: the row has no text or number under {self.group!r}; "
                "add it to the row, or set source.group=null"
            )

        return str(group)


def question_and_answer(conversation: Conversation) -> tuple[str, str]:
    """Return the question and the answer. The question starts with the system's message.

    All placeholders are removed. Raise UserError unless the conversation has one question, one
    answer, one or two images, and a placeholder for each image.
    """
    system, question, answer = _split_turns(conversation)

    num_images = len(conversation.images)
    if num_images not in TASK_OF:
        raise UserError(
            f"the row has {num_images} images, must be 1 (a query) or 2 (a reference, then a "
            "query); fix the row's images"
        )

    text = "\n".join([*system, question])
    num_placeholders = text.count(PLACEHOLDER)
    if num_placeholders != num_images:
        raise UserError(
            f"the question has {num_placeholders} {PLACEHOLDER} for {num_images} images; put one "
            f"{PLACEHOLDER} for each image into the question"
        )

    lines = (line.strip() for line in text.replace(PLACEHOLDER, "").splitlines())
    words = "\n".join(line for line in lines if line)
    if not words:
        raise UserError("the question has no words; add words to the question")

    return words, answer.strip()


def _split_turns(conversation: Conversation) -> tuple[list[str], str, str]:
    """Return the system's message (a list of none or one), the question and the answer."""
    turns = list(conversation.turns)
    system = []
    if turns and turns[0].speaker in SYSTEM_SPEAKERS:
        system.append(turns.pop(0).text)

    speakers = [turn.speaker for turn in turns]
    is_exchange = (
        len(turns) == 2 and speakers[0] in QUESTION_SPEAKERS and speakers[1] in ANSWER_SPEAKERS
    )
    if not is_exchange:
        quoted = ", ".join(speakers)[:MAX_QUOTED_SPEAKERS] or "nobody"
        raise UserError(
            f"the row must have one question and one answer, its speakers are: {quoted}; make a "
            "row for each question"
        )

    return system, turns[0].text, turns[1].text


def split_label(answer: str, labels: Mapping[str, str]) -> tuple[str, str]:
    """Return the label that an answer starts with, and the rest of the answer.

    The longest of the user's words counts. Raise UserError if the answer starts with none of
    them. A word must end at a boundary: "normally ..." does not start with "normal".
    """
    own_names = {label: label for label in LABELS[Task.JUDGE_PAIR]}
    label_of_word = {**own_names, **{normal_name(word): labels[word] for word in labels}}
    answer = normal_text(answer)

    for word in sorted(label_of_word, key=len, reverse=True):
        start, rest = answer[: len(word)], answer[len(word) :]
        is_boundary = not rest[:1].isalnum() and rest[:1] not in ("_", "-")
        if start.casefold() == word.casefold() and is_boundary:
            return label_of_word[word], rest

    words = ", ".join(repr(word) for word in label_of_word)
    raise UserError(
        f"answer {answer[:MAX_QUOTED_ANSWER]!r} starts with none of {words}; map its first word, "
        "as in 'source.labels={OK: normal, NG: abnormal}'"
    )
