"""The error gallery: held-out records that a run answered wrong, with the answers of all runs."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.tiles import deciding_tile
from vlmbench.report.baseline_answers import AskedBaseline
from vlmbench.report.images import NO_FOLDERS, DataFolders, Thumbnail, heat_thumbnail, thumbnails_of
from vlmbench.report.runs import RunResult
from vlmbench.report.verdicts import Finding
from vlmbench.types import Prediction, Probe, Task, UserError

log = logging.getLogger(__name__)

MOST_RECORDS = 150  # about 2 MB with two images each

# Records that a task and view gives at each turn; the other tasks give 1.
TURNS = {Task.JUDGE_PAIR: 3}

# Controls whose right answer is known without a label.
CONTROLS = (Probe.SELF, Probe.BLANK)

Key = tuple[str, ...]
HeatBytes = NDArray[np.uint8]  # (rows, columns)
Marked = NDArray[np.bool_]  # (rows, columns)
QueueName = tuple[Probe, Task, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatOf:
    """The heat map of a baseline for one record, and the known mask of its defect."""

    name: str
    heat: HeatBytes
    marked: Marked | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAnswer:
    """The answer of one run to a record; `run` is the run's index in the gallery."""

    run: int
    prediction: Prediction
    confidence: float | None

    @property
    def correct(self) -> bool:
        return self.prediction.correct

    @property
    def answer(self) -> str:
        """Return the predicted label, or the text that names no label."""
        return self.prediction.predicted or self.prediction.text or "no label"

    @property
    def text(self) -> str:
        """Return the generated text; "" if it is only the label."""
        text = self.prediction.text or ""
        return "" if text == self.answer else text

    @property
    def confidence_words(self) -> str:
        """Return how sure the answer is, and the tile that decided if the images were cut."""
        sure = "" if self.confidence is None else f"{100 * self.confidence:.0f} % sure"
        box = deciding_tile(self.prediction)
        tile = "" if box is None else f"by the tile at x {box[0]}, y {box[1]}"
        return ", ".join(filter(None, (sure, tile)))


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryEntry:
    """A record, its images, and the answers of all runs that have a prediction for it."""

    record: Prediction
    images: tuple[Thumbnail, ...]
    answers: tuple[RunAnswer, ...]
    heat: Thumbnail | None = None

    @property
    def task(self) -> str:
        """Return the task in words; for a control, also the kind of control."""
        name = self.record.task.replace("_", " ")
        return name if self.record.probe == Probe.NONE else f"{name}, control: {self.record.probe}"

    @property
    def defect(self) -> str:
        return self.record.meta.get("defect", "")

    @property
    def about(self) -> str:
        """Return the task, the view, the defect and the id of the record."""
        defect = f"defect: {self.defect}" if self.defect else ""
        parts = (self.task, self.record.view, defect, self.record.id)
        return " · ".join(part for part in parts if part)

    @property
    def wrong(self) -> tuple[RunAnswer, ...]:
        """Return the wrong answers, the most confident first."""
        wrong = [answer for answer in self.answers if not answer.correct]
        return tuple(sorted(wrong, key=lambda answer: -(answer.confidence or 0.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """The runs with predictions, and the records that they answered wrong.

    `errors` counts the wrong answers of each run to ordinary records. `total` counts the records,
    with the controls in CONTROLS, that any run answered wrong. `first` and `second` are the indices
    of the two runs that the page shows at the start.
    """

    runs: tuple[RunResult, ...]
    errors: tuple[int, ...]
    entries: tuple[GalleryEntry, ...]
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


def gallery(
    runs: Sequence[RunResult],
    findings: Sequence[Finding],
    heat: Sequence[AskedBaseline] = (),
    *,
    folders: DataFolders = NO_FOLDERS,
) -> Gallery:
    """Return the most confident wrong answers of each task and view, over all finished runs.

    The baselines in `heat` that have heat maps show where they see a difference. Only images in
    `folders` are shown.
    """
    finished = tuple(run for run in runs if run.finished and run.predictions)
    by_key = [{_key(each): each for each in run.predictions} for run in finished]
    wrong = [_wrong_predictions(run) for run in finished]

    heat_maps = _heat_maps(heat)
    first, second = _first_pair(finished, findings)
    return Gallery(
        runs=finished,
        errors=tuple(_count_ordinary(own) for own in wrong),
        entries=tuple(
            replace(_entry(key, by_key, folders), heat=_heat_of(key, heat_maps, folders))
            for key in _choose_records(wrong)
        ),
        total=len({_key(each) for own in wrong for each in own}),
        first=first,
        second=second,
    )


def _heat_maps(baselines: Sequence[AskedBaseline]) -> dict[Key, HeatOf]:
    """Return the heat map of each record that has one."""
    maps: dict[Key, HeatOf] = {}
    for baseline in baselines:
        try:
            of_baseline, marked = baseline.read_heat(), baseline.read_marked()
        except UserError as error:  # the figures are worth more than this image
            log.warning("%s", error)
            continue

        for prediction in (each for own in baseline.answers.values() for each in own):
            key = (prediction.id, prediction.task, prediction.view)
            if key in of_baseline:
                found = HeatOf(name=baseline.name, heat=of_baseline[key], marked=marked.get(key))
                maps.setdefault(_key(prediction), found)
    return maps


def _heat_of(key: Key, maps: Mapping[Key, HeatOf], folders: DataFolders) -> Thumbnail | None:
    """Return the query with the heat map of the record `key`; None without a map or an image."""
    if key not in maps:
        return None

    found = maps[key]
    caption = f"where {found.name} sees a difference; this is not the tuned model's evidence"
    if found.marked is not None:
        caption += "; the blue line is the known mask or box"
    return heat_thumbnail(key[-1], found.heat, caption, folders, marked=found.marked)


def _wrong_predictions(run: RunResult) -> list[Prediction]:
    """Return the wrong answers to ordinary records and to CONTROLS."""
    probes = (Probe.NONE, *CONTROLS)
    return [each for each in run.predictions if not each.correct and each.probe in probes]


def _count_ordinary(predictions: Sequence[Prediction]) -> int:
    return sum(each.probe == Probe.NONE for each in predictions)


def confidence(prediction: Prediction) -> float | None:
    """Return the probability of the predicted label among the labels; None without scores."""
    chosen = prediction.scores.get(prediction.predicted or "")
    if chosen is None:
        return None

    # exp(700) is close to the largest float.
    differences = [score - chosen for score in prediction.scores.values()]
    return 1.0 / sum(math.exp(min(difference, 700.0)) for difference in differences)


def _key(prediction: Prediction) -> Key:
    """Return the identity of a record across runs.

    The id alone is not enough: runs on other data may use it for another record.
    """
    record = prediction
    return (
        record.id,
        record.task,
        record.view,
        record.probe,
        record.expected,
        *record.images,
    )


def _first_pair(runs: Sequence[RunResult], findings: Sequence[Finding]) -> tuple[int, int]:
    """Return the indices of a run and its baseline run, from the first answered question."""
    for finding in findings:
        question = finding.question
        model_setting = (question.model, question.setting)
        variant = _run_indices(runs, (*model_setting, question.variant))
        baseline = _run_indices(runs, (*model_setting, question.baseline))
        if variant and baseline:
            return variant[0], baseline[0]

    return 0, min(1, len(runs) - 1)


def _run_indices(runs: Sequence[RunResult], series: tuple[str, str, str]) -> list[int]:
    """Return the indices of the runs with this (model, setting, data)."""
    return [index for index, run in enumerate(runs) if (run.model, run.setting, run.data) == series]


def _choose_records(wrong: Sequence[Sequence[Prediction]]) -> list[Key]:
    """Return at most MOST_RECORDS, dealt in turns from every queue, in the order of the page."""
    turns = []

    for queue_number, (records_a_turn, keys) in enumerate(_queues(wrong)):
        for index, key in enumerate(islice(keys, MOST_RECORDS)):
            turns.append((index // records_a_turn, queue_number, index, key))

    chosen = sorted(turns)[:MOST_RECORDS]
    return [key for _, _, _, key in sorted(chosen, key=lambda turn: turn[1:3])]


def _queues(wrong: Sequence[Sequence[Prediction]]) -> Iterator[tuple[int, Iterator[Key]]]:
    """Yield the records a turn and the records of every (probe, task, view).

    Controls come last, the raw view first.
    """
    queues: dict[QueueName, list[list[Prediction]]] = {}

    for own in wrong:
        by_name: dict[QueueName, list[Prediction]] = {}
        for each in sorted(own, key=lambda each: (-(confidence(each) or 0.0), each.id)):
            by_name.setdefault((each.probe, each.task, each.view), []).append(each)
        for name, predictions in by_name.items():
            queues.setdefault(name, []).append(predictions)

    for name in sorted(queues, key=_queue_position):
        probe, task, _ = name
        records_a_turn = TURNS.get(task, 1) if probe is Probe.NONE else 1
        yield records_a_turn, _in_turns(queues[name])


def _queue_position(name: QueueName) -> tuple[int, int, bool, str]:
    probe, task, view = name
    return (
        list(Probe).index(probe),
        list(Task).index(task),
        view != "raw",
        view,
    )


def _in_turns(lists: Sequence[Sequence[Prediction]]) -> Iterator[Key]:
    """Yield one record of each list in turn, no record twice."""
    turns = (each for turn in zip_longest(*lists) for each in turn if each is not None)
    yield from dict.fromkeys(_key(each) for each in turns)


def _entry(
    key: Key, by_key: Sequence[Mapping[Key, Prediction]], folders: DataFolders
) -> GalleryEntry:
    """Return the record `key` with the answers of all runs; `by_key` has a mapping a run."""
    answers = [
        RunAnswer(
            run=index,
            prediction=own[key],
            confidence=confidence(own[key]),
        )
        for index, own in enumerate(by_key)
        if key in own
    ]
    record = answers[0].prediction
    return GalleryEntry(
        record=record,
        images=thumbnails_of(record, folders),
        answers=tuple(answers),
    )
