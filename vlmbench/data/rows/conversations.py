"""Conversations with pictures, as LLaVA and ShareGPT write them: a question, an answer that starts with a label.

A row holds its pictures' paths and its turns. Each picture has an `<image>` placeholder in the question. A record's
pictures are shown before its words, so that placeholders are taken out wherever they stand.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vlmbench.data.photos.source import check_words
from vlmbench.data.rows.read import decode, read_rows
from vlmbench.data.rows.source import Draft, RowSourceConfig
from vlmbench.data.wrongs import Misfit
from vlmbench.types import LABELS, Task, UserError

PLACEHOLDER = "<image>"
TASK_OF = {1: Task.JUDGE_SINGLE, 2: Task.JUDGE_PAIR}  # by the number of pictures
ASKING, ANSWERING, SYSTEM = ("human", "user"), ("gpt", "assistant"), ("system",)


class Turn(msgspec.Struct):
    """What one side says."""

    speaker: str
    text: str


class NamedTurn(msgspec.Struct):
    """A turn of a LLaVA or ShareGPT file: {"from": "human", "value": "..."}."""

    value: str
    speaker: str = msgspec.field(name="from")


class RoleTurn(msgspec.Struct):
    """A turn in the words of chat models: {"role": "user", "content": "..."}."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """A row: its pictures and turns."""

    pictures: tuple[str, ...]
    turns: tuple[Turn, ...]


@dataclass(kw_only=True)
class ConversationConfig(RowSourceConfig):
    """`labels` maps what answers start with to normal and abnormal. `group` names the key of a row that tells its part;
    without it every last picture is a part of its own. `questions` keeps the rows' own wording."""

    group: str | None = None
    questions: bool = True

    def __post_init__(self) -> None:
        RowSourceConfig.__post_init__(self)
        check_words(self.labels)

    @abstractmethod
    def talk(self, row: msgspec.Raw) -> Talk:
        """The row's pictures and turns. Raises UserError, or msgspec's errors, where it does not fit."""

    def file(self) -> Path:
        return Path(self.path)

    def drafts(self) -> Iterator[Draft | Misfit]:
        for number, (place, raw) in enumerate(read_rows(self.file()), start=1):
            try:
                yield self._draft(number, place, raw)
            except (UserError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                yield Misfit(place=place, why=str(error).removeprefix(f"{place}: "))

    def _draft(self, number: int, place: str, raw: msgspec.Raw) -> Draft:
        talk = self.talk(raw)
        question, answer = exchange(talk)
        label, rest = split_label(answer, self.labels)
        fields = decode(raw, dict[str, Any], place)
        if self.group is not None and not isinstance(fields.get(self.group), str | int):
            raise UserError(f"no word or number under {self.group!r}, which source.group names; add it to the row")
        return Draft(
            place=place,
            id=f"row-{number}",
            task=TASK_OF[len(talk.pictures)],
            pictures=talk.pictures,
            label=label,
            answer=label + rest,
            group=talk.pictures[-1] if self.group is None else str(fields[self.group]),
            question=question if self.questions else "",
            meta={"row": str(fields["id"])} if isinstance(fields.get("id"), str | int) else {},
        )


def exchange(talk: Talk) -> tuple[str, str]:
    """The question, with what the system says before it, and the answer; placeholders are taken out.

    Raises UserError unless there is one of each, one picture or two, and a placeholder for each picture.
    """
    turns = list(talk.turns)
    head = [turns.pop(0).text] if turns and turns[0].speaker in SYSTEM else []
    speakers = [turn.speaker for turn in turns]
    if len(turns) != 2 or speakers[0] not in ASKING or speakers[1] not in ANSWERING:
        said = ", ".join(speakers)[:100] or "nobody"
        raise UserError(f"one question and one answer are taken, here speak: {said}; make a row of each question")
    if len(talk.pictures) not in TASK_OF:
        raise UserError(f"the row has {len(talk.pictures)} pictures; one, or a reference and a query, are taken")
    asked = "\n".join([*head, turns[0].text])
    if asked.count(PLACEHOLDER) != len(talk.pictures):
        count = asked.count(PLACEHOLDER)
        raise UserError(f"{count} {PLACEHOLDER} for {len(talk.pictures)} pictures; put one for each into the question")
    lines = (line.strip() for line in asked.replace(PLACEHOLDER, "").splitlines())
    question = "\n".join(line for line in lines if line)
    if not question:
        raise UserError("the question has no words; add some")
    return question, turns[1].text.strip()


def split_label(answer: str, labels: Mapping[str, str]) -> tuple[str, str]:
    """The label that an answer starts with, by the longest of the user's words, and what follows.

    Raises UserError for an answer that starts with none of them, or with one that goes on: "normally ...".
    """
    known = {**{label: label for label in LABELS[Task.JUDGE_PAIR]}, **labels}
    for word in sorted(known, key=len, reverse=True):
        rest = answer[len(word) :]
        if answer[: len(word)].casefold() == word.casefold() and not rest[:1].isalnum() and rest[:1] not in ("_", "-"):
            return known[word], rest
    words = ", ".join(repr(word) for word in known)
    raise UserError(f"answer {answer[:60]!r} starts with none of {words}; add its first word to source.labels")


def named_turns(turns: list[NamedTurn]) -> tuple[Turn, ...]:
    """Turns of LLaVA or ShareGPT."""
    return tuple(Turn(speaker=turn.speaker, text=turn.value) for turn in turns)


def role_turns(turns: list[RoleTurn]) -> tuple[Turn, ...]:
    """Turns in the words of chat models."""
    return tuple(Turn(speaker=turn.role, text=turn.content) for turn in turns)
