"""The words of a record: its question, its answer and its labels in the run's language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vlmbench.types import LABELS, Record, Task, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """`questions` by task, `labels` by label, `phrases` replaced in what follows the label, longest first."""

    questions: Mapping[str, str]
    labels: Mapping[str, str]
    phrases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise UserError where a task's labels could not be told apart by their words."""
        for task in LABELS:
            negative, positive = self.label_words(task).values()
            if negative.startswith(positive) or positive.startswith(negative):
                raise UserError(
                    f"prompt.labels: {negative!r} and {positive!r} ({task}) begin alike; choose words that differ "
                    "from their start, so that the label can be told from its first words"
                )

    def label_words(self, task: Task) -> dict[str, str]:
        """Label -> the word that the model says for it, of a task with two labels."""
        return {label: self.labels.get(label, label) for label in LABELS[task]}

    def words_of(self, record: Record) -> dict[str, str]:
        """Label -> the word that the model says for it, of any record; an option's letter is its own word."""
        return self.label_words(record.task) if record.task in LABELS else {letter: letter for letter in record.labels}

    def question(self, record: Record) -> str:
        """The record's own question or the task's; that of a choice with its options and how to answer."""
        if record.task is not Task.CHOOSE_OPTION:
            return record.question or self.questions[record.task]
        options = (f"{letter}. {text}" for letter, text in record.options.items())
        return "\n".join([record.question, *options, self.questions[record.task]])

    def answer(self, record: Record) -> str:
        """The label's word, then the rest of the record's answer."""
        rest = record.answer[len(record.label) :]
        if record.task is Task.CHOOSE_OPTION:  # options are in the words of their question
            return record.label + rest
        for phrase in sorted(self.phrases, key=len, reverse=True):
            rest = rest.replace(phrase, self.phrases[phrase])
        return self.labels.get(record.label, record.label) + rest

    def parse(self, text: str, task: Task) -> str | None:
        """The label that a generated answer names, None where it names none: no guessing.

        The answer has to begin with exactly one label's word, ended by a boundary: "normally ..." is not "normal".
        """
        said = text.strip().casefold()
        for label, word in self.label_words(task).items():
            if _begins(said, word.casefold()):
                return label
        return None

    def parse_option(self, text: str, options: Mapping[str, str]) -> str | None:
        """The letter of the option that a generated answer names, None where it names none: no guessing.

        The answer has to be, or begin with, the whole text of exactly one option, or begin with a letter as in "B",
        "(b)", "B.", "B: ...". "A jagged break" is not option A unless that is its text.
        """
        said = text.strip().casefold()
        texts = {letter: option.strip().rstrip(".").casefold() for letter, option in options.items()}
        named = [letter for letter, option in texts.items() if option and _begins(said, option)]
        longest = max((len(texts[letter]) for letter in named), default=0)
        best = [letter for letter in named if len(texts[letter]) == longest]
        if best:
            return best[0] if len(best) == 1 else None
        match = _LETTER.match(said)
        found = [letter for letter in options if match and letter.casefold() == match[1]]
        return found[0] if len(found) == 1 else None


_LETTER = re.compile(r"\(?(\w)(?:$|[.:),])")


def _begins(said: str, words: str) -> bool:
    """Whether the text begins with the words, ended by a boundary."""
    rest = said.removeprefix(words)
    return said.startswith(words) and not rest[:1].isalnum() and rest[:1] not in ("_", "-")
