"""The error gallery: held-out records that some cell answered wrong, with what every cell said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

from vlmbench.report.cells import Cell
from vlmbench.report.pictures import Picture, pictures_of
from vlmbench.report.verdicts import Finding
from vlmbench.types import Prediction, Probe, Task

MOST_RECORDS = 150  # with two pictures each about 2 MB
TURNS = {Task.JUDGE_PAIR: 3}  # records that a task and view gives at each turn; the others give one
CONTROLS = (Probe.SELF, Probe.BLANK)  # whose right answer is known beforehand

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one cell said to a record; `cell` is its number in the gallery."""

    cell: int
    prediction: Prediction
    confidence: float | None

    @property
    def correct(self) -> bool:
        return self.prediction.correct

    @property
    def said(self) -> str:
        """The label, else the words that name none."""
        return self.prediction.predicted or self.prediction.text or "no label"

    @property
    def words(self) -> str:
        """The written answer, where it is more than the label."""
        text = self.prediction.text or ""
        return "" if text == self.said else text

    @property
    def sureness(self) -> str:
        return "" if self.confidence is None else f"{100 * self.confidence:.0f} % sure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A record, its pictures, and the answers of all cells that were asked, in the order of the cells."""

    record: Prediction
    pictures: tuple[Picture, ...]
    answers: tuple[Answer, ...]

    @property
    def task(self) -> str:
        """The task, or the control that was made from it."""
        name = self.record.task.replace("_", " ")
        return name if self.record.probe == Probe.NONE else f"{name}, control: {self.record.probe}"

    @property
    def defect(self) -> str:
        return self.record.meta.get("defect", "")

    @property
    def about(self) -> str:
        """Which record this is, and what is known of it."""
        defect = f"defect: {self.defect}" if self.defect else ""
        return " · ".join(part for part in (self.task, self.record.view, defect, self.record.id) if part)

    @property
    def wrong(self) -> tuple[Answer, ...]:
        """The wrong answers, the surest first."""
        return tuple(sorted((a for a in self.answers if not a.correct), key=lambda a: -(a.confidence or 0.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """`cells` are those that have predictions, `errors` their wrong answers to ordinary records; `total` counts the
    records, with the controls in CONTROLS, that any of them answered wrong. `first` and `second` are the cells to look
    at first."""

    cells: tuple[Cell, ...]
    errors: tuple[int, ...]
    entries: tuple[Entry, ...]
    total: int
    first: int = 0
    second: int = 1

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(entry.task for entry in self.entries))

    @property
    def views(self) -> list[str]:
        return list(dict.fromkeys(entry.record.view for entry in self.entries))

    @property
    def defects(self) -> list[str]:
        return sorted({entry.defect for entry in self.entries})


def gallery(cells: Sequence[Cell], found: Sequence[Finding]) -> Gallery:
    """Of all finished cells: for each task and view the wrong answers that they were most sure of, cell by cell."""
    finished = tuple(cell for cell in cells if cell.finished and cell.predictions)
    asked = [{_key(p): p for p in cell.predictions} for cell in finished]
    shown = (Probe.NONE, *CONTROLS)
    wrong = [[p for p in cell.predictions if not p.correct and p.probe in shown] for cell in finished]
    first, second = _first_look(finished, found)
    return Gallery(
        cells=finished,
        errors=tuple(sum(p.probe == Probe.NONE for p in some) for some in wrong),
        entries=tuple(_entry(key, asked) for key in _chosen(wrong)),
        total=len({_key(p) for some in wrong for p in some}),
        first=first,
        second=second,
    )


def confidence(prediction: Prediction) -> float | None:
    """Probability that the model gave to its answer, among the labels; None without scores."""
    chosen = prediction.scores.get(prediction.predicted or "")
    if chosen is None:
        return None
    return 1.0 / sum(math.exp(min(score - chosen, 700.0)) for score in prediction.scores.values())


def _key(p: Prediction) -> Key:
    """What makes it the same record in another cell: cells of other data may use its id for something else."""
    return (p.id, p.task, p.view, p.probe, p.expected, *p.images)


def _first_look(cells: Sequence[Cell], found: Sequence[Finding]) -> tuple[int, int]:
    """The numbers of a variant's cell and of its baseline's: of the first question that was answered."""
    for finding in found:
        asked = finding.question
        sides = [
            [i for i, c in enumerate(cells) if (c.model, c.setting, c.data) == (asked.model, asked.setting, data)]
            for data in (asked.variant, asked.baseline)
        ]
        if all(sides):
            return sides[0][0], sides[1][0]
    return 0, min(1, len(cells) - 1)


def _chosen(wrong: Sequence[Sequence[Prediction]]) -> list[Key]:
    """At most MOST_RECORDS, dealt by turns from every task, view and control; in the order of the page."""
    turns = []
    for place, (each, keys) in enumerate(_queues(wrong)):
        turns += [(i // each, place, i, key) for i, key in enumerate(islice(keys, MOST_RECORDS))]
    return [key for _, _, _, key in sorted(sorted(turns)[:MOST_RECORDS], key=lambda turn: turn[1:3])]


def _queues(wrong: Sequence[Sequence[Prediction]]) -> Iterator[tuple[int, Iterator[Key]]]:
    """For every task, view and control how many records it gives at a turn, and its records: controls last, the raw
    view first."""
    lists: dict[tuple[Probe, Task, str], list[list[Prediction]]] = {}
    for some in wrong:
        own: dict[tuple[Probe, Task, str], list[Prediction]] = {}
        for p in sorted(some, key=lambda p: (-(confidence(p) or 0.0), p.id)):
            own.setdefault((p.probe, p.task, p.view), []).append(p)
        for place, predictions in own.items():
            lists.setdefault(place, []).append(predictions)
    probes, tasks = list(Probe), list(Task)
    for probe, task, view in sorted(
        lists, key=lambda place: (probes.index(place[0]), tasks.index(place[1]), place[2] != "raw", place[2])
    ):
        yield TURNS.get(task, 1) if probe is Probe.NONE else 1, _by_turns(lists[probe, task, view])


def _by_turns(lists: Sequence[Sequence[Prediction]]) -> Iterator[Key]:
    """The records of several lists, one of each list in turn, none twice."""
    turns = (p for turn in zip_longest(*lists) for p in turn if p is not None)
    yield from dict.fromkeys(_key(p) for p in turns)


def _entry(key: Key, asked: Sequence[Mapping[Key, Prediction]]) -> Entry:
    answers = tuple(
        Answer(cell=number, prediction=of_cell[key], confidence=confidence(of_cell[key]))
        for number, of_cell in enumerate(asked)
        if key in of_cell
    )
    record = answers[0].prediction
    return Entry(record=record, pictures=pictures_of(record), answers=answers)
