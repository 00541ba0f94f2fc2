"""A question of the experiment, and its answer."""

from __future__ import annotations

from dataclasses import dataclass

from vlmbench.report.figures import interval_words


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAnswer:
    """A figure about `about`, with its basis and conclusion.

    `interval` is the 95 % interval; "" if there is none.
    """

    about: str
    figure: str
    interval: str
    basis: str
    conclusion: str

    @property
    def sentence(self) -> str:
        """Return the answer on one line."""
        details = "; ".join(part for part in (interval_words(self.interval), self.basis) if part)
        return f"{self.about}: {self.figure} ({details}): {self.conclusion}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A question and its answers; `needs` names what a sweep without answers lacks."""

    title: str
    needs: str
    answers: tuple[StepAnswer, ...]
