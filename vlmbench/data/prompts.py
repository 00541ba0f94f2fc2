"""The words of a record: its question, its answer and its labels in the run's language."""

from __future__ import annotations

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
        for task in Task:
            negative, positive = self.label_words(task).values()
            if negative.startswith(positive) or positive.startswith(negative):
                raise UserError(
                    f"prompt.labels: {negative!r} and {positive!r} ({task}) begin alike; choose words that differ "
                    "from their start, so that the label can be told from its first words"
                )

    def label_words(self, task: Task) -> dict[str, str]:
        """Label -> the word that the model says for it."""
        return {label: self.labels.get(label, label) for label in LABELS[task]}

    def question(self, record: Record) -> str:
        return record.question or self.questions[record.task]

    def answer(self, record: Record) -> str:
        """The label's word, then the rest of the record's answer."""
        rest = record.answer[len(record.label) :]
        for phrase in sorted(self.phrases, key=len, reverse=True):
            rest = rest.replace(phrase, self.phrases[phrase])
        return self.labels.get(record.label, record.label) + rest

    def parse(self, text: str, task: Task) -> str | None:
        """The label that a generated answer names, None where it names none: no guessing.

        The answer has to begin with exactly one label's word, ended by a boundary: "normally ..." is not "normal".
        """
        said = text.strip().casefold()
        for label, word in self.label_words(task).items():
            rest = said.removeprefix(word.casefold())
            if rest != said and not rest[:1].isalnum() and rest[:1] not in ("_", "-"):
                return label
        return None
