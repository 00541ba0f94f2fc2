"""The data page: how many records of what, on which side, what leaks were looked for, and what pictures look like."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmbench.report.cells import Cell, Series, series_of
from vlmbench.report.pictures import Picture, pictures_of
from vlmbench.report.tables import named
from vlmbench.types import Prediction, Probe, Task

SAMPLES = 4  # of each task and view: one of each label and defect in turn


@dataclass(frozen=True, slots=True, kw_only=True)
class SideRow:
    """The records of one side, task and view."""

    side: str
    task: str
    view: str
    records: int
    labels: str
    parts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """What cells were made from: `about` names them where not all share it; `source` are the source's settings."""

    about: tuple[str, ...]
    source: tuple[tuple[str, str], ...]
    rows: tuple[SideRow, ...]
    leaks: str
    leaking: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diet:
    """What a series trained on."""

    series: Series
    records: str
    tokens: str
    steps: str
    by_task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A held-out record to look at."""

    record: Prediction
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Some records of one task and view."""

    title: str
    records: tuple[Sample, ...]


def data_sets(cells: Sequence[Cell]) -> list[DataSet]:
    """One, where all cells that wrote figures share it."""
    known: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.metrics.get("data"):
            data = {key: cell.metrics["data"].get(key) for key in ("sides", "pictures", "leaks", "groups")}
            known.setdefault(json.dumps([data, cell.config.get("source")], default=str), []).append(cell)
    return [_data_set(members, alone=len(known) == 1) for members in known.values()]


def _data_set(members: Sequence[Cell], *, alone: bool) -> DataSet:
    data, source = members[0].metrics["data"], members[0].config.get("source")
    settings = source.items() if isinstance(source, Mapping) else ()
    leaks = data.get("leaks") or {}
    return DataSet(
        about=() if alone else tuple(cell.label for cell in members),
        source=tuple((str(key), str(value)) for key, value in settings if value not in (None, {}, [])),
        rows=tuple(_side_row(row) for row in data.get("sides", ())),
        leaks=_leak_report(data),
        leaking=tuple(str(message) for message in leaks.get("first", ())),
    )


def _side_row(row: Mapping[str, Any]) -> SideRow:
    labels = row["labels"]
    return SideRow(
        side=str(row["side"]),
        task=str(row["task"]),
        view=str(row["view"]),
        records=sum(labels.values()),
        labels=", ".join(f"{count:,} {label}" for label, count in labels.items()),
        parts=row["parts"],
    )


def _leak_report(data: Mapping[str, Any]) -> str:
    if not data.get("leaks"):
        return "These cells do not say what leaks were looked for: they were evaluated by an older version."
    looked = (
        f"{sum(sum(row['labels'].values()) for row in data['sides']):,} records and {data['pictures']:,} pictures were "
        "searched for parts, picture files, contents and looks that stand on two sides"
    )
    found = data["leaks"]["found"]
    if not found:
        return f"No leak: {looked}, and there is none."
    return f"{found:,} leak{'' if found == 1 else 's'} allowed (data.allow_leak): {looked}."


def diets(cells: Sequence[Cell]) -> list[Diet]:
    """One for each series whose cells say what they trained on."""
    found = []
    for series in series_of(cells):
        data = [cell.metrics.get("data", {}) for cell in series.cells]
        if all(one.get("train_records") is not None for one in data):
            found.append(
                Diet(
                    series=series,
                    records=_span([one["train_records"] for one in data]),
                    tokens=_span([one.get("train_tokens") for one in data]),
                    steps=_span([one.get("steps") for one in data]),
                    by_task=", ".join(f"{count:,} {task}" for task, count in data[0].get("by_task", {}).items()),
                )
            )
    return found


def _span(numbers: Sequence[Any]) -> str:
    """One number where all seeds agree, else the lowest and the highest."""
    known = sorted({number for number in numbers if isinstance(number, int | float)})
    return "" if not known else f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"


def samples(cells: Sequence[Cell]) -> list[Samples]:
    """Held-out records of each task and view; of the first cell that was asked them."""
    found: dict[tuple[Task, str], list[Prediction]] = {}
    for cell in cells:
        own: dict[tuple[Task, str], list[Prediction]] = {}
        for p in cell.predictions if cell.finished else ():
            if p.probe == Probe.NONE and p.images:
                own.setdefault((p.task, p.view), []).append(p)
        found = own | found
    order = list(Task)
    places = sorted(found, key=lambda place: (order.index(place[0]), place[1] != "raw", place[1]))
    return [
        Samples(
            title=named(*place),
            records=tuple(Sample(record=p, pictures=pictures_of(p)) for p in _different(found[place])),
        )
        for place in places
    ]


def _different(records: Sequence[Prediction]) -> Iterator[Prediction]:
    """One of each label and defect, then a second of each, and so on; at most SAMPLES."""
    seen: dict[tuple[str, str], int] = {}
    turns = []
    for position, p in enumerate(records):
        kind = (p.expected, p.meta.get("defect", ""))
        seen[kind] = seen.get(kind, -1) + 1
        turns.append((seen[kind], position))
    return (records[position] for _, position in sorted(turns)[:SAMPLES])
