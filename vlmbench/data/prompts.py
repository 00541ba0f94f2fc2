"""The words of a record in the run's language: its question, its answer and its labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vlmbench.types import LABELS, Record, Task, UserError

_LETTER = re.compile(r"\(?(\w)(?:$|[.:),])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Questions by task, label words by label, and phrases.

    `phrases` are replaced in the text after the label, the longest first.
    """

    questions: Mapping[str, str]
    labels: Mapping[str, str]
    phrases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise UserError if one label word of a task begins with the other."""
        for task in LABELS:
            negative, positive = self.label_words(task).values()
            shorter, longer = sorted((negative, positive), key=len)
            if longer.startswith(shorter):
                raise UserError(
                    f"prompt.labels: {negative!r} and {positive!r} ({task}) begin alike; choose "
                    "words that differ from their start, because the first words of an answer "
                    "decide its label"
                )

    def label_words(self, task: Task) -> dict[str, str]:
        """Return the word that the model says for each label of a task with two labels."""
        return {label: self.labels.get(label, label) for label in LABELS[task]}

    def words_of(self, record: Record) -> dict[str, str]:
        """Return the word that the model says for each label of a record.

        An option's letter is its own word.
        """
        if record.task in LABELS:
            return self.label_words(record.task)

        return {letter: letter for letter in record.labels}

    def question(self, record: Record) -> str:
        """Return the record's own question, or else its task's question.

        For a multiple choice: the question, the options, and the task's question.
        """
        if record.task is not Task.CHOOSE_OPTION:
            return record.question or self.questions[record.task]

        lines = [record.question]
        for letter, text in record.options.items():
            lines.append(f"{letter}. {text}")
        lines.append(self.questions[record.task])
        return "\n".join(lines)

    def answer(self, record: Record) -> str:
        """Return the label's word, then the rest of the record's answer."""
        rest = record.answer[len(record.label) :]
        if record.task is Task.CHOOSE_OPTION:  # options keep the words of their question
            return record.label + rest

        word = self.labels.get(record.label, record.label)
        for phrase in sorted(self.phrases, key=len, reverse=True):
            rest = rest.replace(phrase, self.phrases[phrase])
        return word + rest

    def parse(self, text: str, task: Task) -> str | None:
        """Return the label that a generated answer names; None if it names none.

        The answer must begin with exactly one label's word, followed by a boundary: "normally ..."
        is not "normal". Nothing is guessed.
        """
        answer = text.strip().casefold()
        for label, word in self.label_words(task).items():
            if _begins_with(answer, word.casefold()):
                return label

        return None

    def parse_option(self, text: str, options: Mapping[str, str]) -> str | None:
        """Return the letter of the option that a generated answer names; None if it names none.

        The answer must begin with the whole text of exactly one option, or with a letter as in "B",
        "(b)", "B.", "B: ...". "A jagged break" is not option A unless that is its text. Nothing is
        guessed.
        """
        answer = text.strip().casefold()
        lengths: dict[str, int] = {}  # of the options that the answer begins with
        for letter, option in options.items():
            text = option.strip().rstrip(".").casefold()
            if text and _begins_with(answer, text):
                lengths[letter] = len(text)

        if lengths:
            longest = max(lengths.values())
            best = [letter for letter, length in lengths.items() if length == longest]
            return best[0] if len(best) == 1 else None

        match = _LETTER.match(answer)
        if match is None:
            return None
        letters = [letter for letter in options if letter.casefold() == match[1]]
        return letters[0] if len(letters) == 1 else None


def _begins_with(answer: str, words: str) -> bool:
    """Return whether the answer begins with the words, followed by a boundary."""
    if not answer.startswith(words):
        return False

    following = answer[len(words) :][:1]
    return not following.isalnum() and following not in ("_", "-")
