"""The data section: records by split, leaks, training records of each variant, sample records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmbench.report.folds import folds_of
from vlmbench.report.images import DataFolders, Thumbnail, thumbnail_of, thumbnails_of
from vlmbench.report.runs import RunResult
from vlmbench.report.series import Series, series_of
from vlmbench.report.tables import task_view_title
from vlmbench.system.text import counted
from vlmbench.types import Prediction, Probe, Task

SAMPLES = 4  # for each task and view: one of each label and defect in turn
DATA_KEYS = ("splits", "images", "leaks", "parts")  # of metrics.json that identify a data set


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRow:
    """The records of one split, task and view."""

    split: str
    task: str
    view: str
    records: int
    labels: str
    parts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """Two images of different splits. `distance` 0 means the same pixels, 1 the limit of a copy."""

    images: tuple[Thumbnail, ...]
    distance: str
    orientation: str
    judgement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """The data of some runs: `about` names the runs, unless all runs share it.

    `source` holds the settings of the source. `nearest` are the images of different splits that are
    most alike; None if the runs do not record them.
    """

    about: tuple[str, ...]
    source: tuple[tuple[str, str], ...]
    rows: tuple[SplitRow, ...]
    leaks: str
    leaking: tuple[str, ...]
    nearest: tuple[NearPair, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMix:
    """The training records of a series."""

    series: Series
    records: str
    tokens: str
    steps: str
    by_task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """A held-out record and its images."""

    record: Prediction
    images: tuple[Thumbnail, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleGroup:
    """Sample records of one task and view."""

    title: str
    records: tuple[SampleRecord, ...]


def data_sets(runs: Sequence[RunResult], folders: DataFolders) -> list[DataSet]:
    """Return every data set; a single one if all runs with figures share it.

    Only images in `folders` are shown.
    """
    users: dict[str, list[RunResult]] = {}

    for run in runs:
        data = run.metrics.get("data")
        if data:
            figures = {key: data.get(key) for key in DATA_KEYS}
            identity = [figures, run.config.get("source")]
            key = json.dumps(identity, default=str)
            users.setdefault(key, []).append(run)

    alone = len(users) == 1
    return [_data_set(members, folders, alone=alone) for members in users.values()]


def _data_set(members: Sequence[RunResult], folders: DataFolders, *, alone: bool) -> DataSet:
    """Return the data set of runs that share it."""
    data = members[0].metrics["data"]
    source = members[0].config.get("source")
    settings = source.items() if isinstance(source, Mapping) else ()
    leaks = data.get("leaks") or {}
    nearest = data.get("nearest")

    return DataSet(
        about=() if alone else tuple(run.label for run in members),
        source=tuple(
            (str(key), str(value)) for key, value in settings if value not in (None, {}, [])
        ),
        rows=tuple(_split_row(row) for row in data.get("splits", ())),
        leaks=_leak_report(data),
        leaking=tuple(str(message) for message in leaks.get("first", ())),
        nearest=None if nearest is None else tuple(_near_pair(pair, folders) for pair in nearest),
    )


def _near_pair(pair: Mapping[str, Any], folders: DataFolders) -> NearPair:
    captions = [str(split) for split in pair["splits"]]
    images = tuple(
        thumbnail_of(str(path), caption, folders)
        for path, caption in zip(pair["images"], captions, strict=True)
    )
    return NearPair(
        images=images,
        distance=f"{pair['distance']:.2f}",
        orientation=str(pair["orientation"]),
        judgement=str(pair["judgement"]),
    )


def _split_row(row: Mapping[str, Any]) -> SplitRow:
    labels = row["labels"]
    planted = row.get("planted")
    return SplitRow(
        split=str(row["split"]),
        task=str(row["task"]),
        view=str(row["view"]),
        records=sum(labels.values()),
        labels=", ".join(f"{count:,} {label}" for label, count in labels.items())
        + (f" ({planted:,} with planted defects)" if planted else ""),
        parts=row["parts"],
    )


def _leak_report(data: Mapping[str, Any]) -> str:
    """Return a sentence on the leaks, and on what was searched for them."""
    if not data.get("leaks") or "splits" not in data:
        return "These runs do not record a leak search: an older version evaluated them."

    records = sum(sum(row["labels"].values()) for row in data["splits"])
    search = (
        f"{records:,} records and {data['images']:,} images were searched for parts, image files, "
        "equal images and near-duplicates that are in two splits"
    )

    number = data["leaks"]["found"]
    if not number:
        return f"No leak: {search}, and there is none."
    return f"{counted(number, 'leak')} allowed (data.allow_leak): {search}."


def training_mixes(runs: Sequence[RunResult]) -> list[TrainingMix]:
    """Return a row for each series whose runs recorded what they trained on."""
    rows = []

    for series in series_of(runs):
        data = [run.metrics.get("data", {}) for run in folds_of(series.runs)]
        if any(each.get("train_records") is None for each in data):
            continue

        by_task = data[0].get("by_task", {})
        rows.append(
            TrainingMix(
                series=series,
                records=_span([each["train_records"] for each in data]),
                tokens=_span([each.get("train_tokens") for each in data]),
                steps=_span([each.get("steps") for each in data]),
                by_task=", ".join(f"{count:,} {task}" for task, count in by_task.items()),
            )
        )

    return rows


def _span(numbers: Sequence[Any]) -> str:
    """Return the number that all seeds share, or the lowest and the highest."""
    known = sorted({number for number in numbers if isinstance(number, int | float)})
    if not known:
        return ""

    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"


def sample_groups(runs: Sequence[RunResult], folders: DataFolders) -> list[SampleGroup]:
    """Return held-out records of each task and view, from the first run that predicted them.

    Only images in `folders` are shown.
    """
    predictions: dict[tuple[Task, str], list[Prediction]] = {}

    for run in runs:
        if run.finished:
            predictions = _by_task_view(run) | predictions

    order = list(Task)
    task_views = sorted(
        predictions, key=lambda pair: (order.index(pair[0]), pair[1] != "raw", pair[1])
    )

    groups = []
    for task, view in task_views:
        chosen = _choose_samples(predictions[task, view])
        records = [
            SampleRecord(record=each, images=thumbnails_of(each, folders)) for each in chosen
        ]
        groups.append(
            SampleGroup(
                title=task_view_title(task, view),
                records=tuple(records),
            )
        )

    return groups


def _by_task_view(run: RunResult) -> dict[tuple[Task, str], list[Prediction]]:
    """Return the ordinary predictions of a run that have images."""
    groups: dict[tuple[Task, str], list[Prediction]] = {}

    for prediction in run.predictions:
        if prediction.probe == Probe.NONE and prediction.images:
            groups.setdefault((prediction.task, prediction.view), []).append(prediction)

    return groups


def _choose_samples(records: Sequence[Prediction]) -> Iterator[Prediction]:
    """Yield one record of each label and defect, then a second of each; at most SAMPLES."""
    seen: dict[tuple[str, str], int] = {}
    turns = []

    for index, record in enumerate(records):
        kind = (record.expected, record.meta.get("defect", ""))
        seen[kind] = seen.get(kind, -1) + 1
        turns.append((seen[kind], index))

    return (records[index] for _, index in sorted(turns)[:SAMPLES])
