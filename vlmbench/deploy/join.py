"""An answer for each part: joined records, and rules that were measured on joined records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vlmbench.config import Join, RunConfig
from vlmbench.deploy.decide import (
    Decider,
    TaskView,
    find_bases,
    find_thresholds,
    make_promises,
)
from vlmbench.metrics import by_task_and_view
from vlmbench.runs.folder import RunDir
from vlmbench.stats import (
    Calibration,
    Shape,
    calibrate,
    deciding,
    join_predictions,
    join_records,
    rule_of,
    shape_of,
)
from vlmbench.system.text import counted
from vlmbench.types import Judgement, Prediction, Record, UserError

# Why photos of one part are not measured on the validation records of photos in lots.
LOTS = (
    "the run's validation records are grouped by lot, not by part, so they cannot tell about "
    "several photos of one part; give one photo of each part, or train on records whose group is "
    "the part"
)

PartKey = tuple[str, TaskView]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joiner:
    """The rules for joined records: a decider for each task and view and shape."""

    how: Join
    deciders: dict[tuple[TaskView, Shape], Decider]

    def notes(self) -> list[str]:
        """Return what a reader must know about joined scores, a sentence each."""
        notes: list[str] = []
        for (kind, shape), decider in self.deciders.items():
            notes += decider.notes([kind])
            notes += _rate_notes(decider, kind)
            if len(shape) > 1 and kind in decider.bases:
                notes.append(
                    f"{decider.joined}: abnormal parts are measured with the defect on all photos; "
                    "a part that shows it on only some of them may be missed more often"
                )
        return notes

    def join(self, records: Sequence[Record], judgements: Sequence[Judgement]) -> list[Judgement]:
        """Return one judgement for each part, in the order of their first records.

        A part with a record that has an error is not judged, and gets the error.
        """
        pairs = list(zip(records, judgements, strict=True))
        return [
            self._join_part(name, kind, [pairs[index] for index in members])
            for (name, kind), members in part_members(records).items()
        ]

    def _join_part(
        self, name: str, kind: TaskView, pairs: Sequence[tuple[Record, Judgement]]
    ) -> Judgement:
        records = [record for record, _ in pairs]
        singles = tuple(judgement for _, judgement in pairs)
        errors = list(dict.fromkeys(each.error for each in singles if each.error is not None))
        if errors:
            unread = sum(each.error is not None for each in singles)
            return Judgement(
                id=name,
                task=kind[0],
                images=singles[0].images,
                error=f"{unread} of {len(singles)} records cannot be read: {'; '.join(errors)}",
                singles=singles,
            )

        predictions = [each.prediction for each in singles if each.prediction is not None]
        margins = [each.margin for each in predictions if each.margin is not None]
        chosen = deciding(margins, self.how)

        prediction = replace(
            join_predictions(predictions, self.how),
            id=name,
            group=name,
            images=predictions[chosen].images,
            meta=predictions[chosen].meta,
        )
        record = replace(records[chosen], id=name)
        decider = self.deciders[kind, _shape(records)]
        judgement = decider.decide(record, prediction, singles[chosen].sentence)
        return replace(judgement, decided_by=singles[chosen].id, singles=singles)


def load_joiner(folder: RunDir, config: RunConfig, records: Sequence[Record], how: Join) -> Joiner:
    """Return the rules for the parts of these records.

    The run's validation and test records are joined as the records of each part are, and then
    calibrated and measured. Photos of a lot show several parts, so that a run on lots cannot tell
    about several photos of one.

    Raise UserError if costs or promised rates are set, and there are too few joined records.
    """
    deciders: dict[tuple[TaskView, Shape], Decider] = {}
    for (_, kind), members in part_members(records).items():
        shape = _shape([records[index] for index in members])
        if (kind, shape) not in deciders:
            deciders[kind, shape] = _load_decider(folder, config, kind, shape, how)
    return Joiner(how=how, deciders=deciders)


def part_members(records: Sequence[Record]) -> dict[PartKey, list[int]]:
    """Return the positions of the records of each part, task and view."""
    parts: dict[PartKey, list[int]] = {}
    for index, record in enumerate(records):
        parts.setdefault((record.group, (record.task, record.view)), []).append(index)
    return parts


def _load_decider(
    folder: RunDir, config: RunConfig, kind: TaskView, shape: Shape, how: Join
) -> Decider:
    """Return the rules of one task and view for parts of this shape."""
    settings, words = config.predict, _in_words(shape, how)
    are_parts = len(shape) == 1 or config.source.unit == "parts"

    def join(predictions: Sequence[Prediction]) -> list[Prediction]:
        return join_records(predictions, shape, how)

    calibrations: dict[TaskView, Calibration] = {}
    missing: dict[TaskView, str] = {}
    validation = by_task_and_view(folder.read_validation())
    try:
        if not are_parts:
            raise UserError(LOTS)
        calibrations[kind] = calibrate(join(validation.get(kind, ())))
    except UserError as error:
        missing[kind] = str(error)

    bases = find_bases(folder, calibrations, join=join)
    decider = Decider(
        calibrations=calibrations,
        bases=bases,
        thresholds=find_thresholds(bases, settings, calibrations, seed=config.data.split_seed),
        promises=make_promises(bases, settings),
        missing=missing,
        settings=settings,
        rule=rule_of(folder.read_config()),
        joined=words,
    )
    decider.require([kind])
    return decider


def _shape(records: Sequence[Record]) -> Shape:
    return shape_of([record.images[-1].path for record in records])


def _in_words(shape: Shape, how: Join) -> str:
    """Return "max of 3 records of one photo", or "max of 2 photos with (3, 1) records each"."""
    if len(shape) == 1:
        return f"{how} of {counted(shape[0], 'record')} of one photo"
    counts = str(shape[0]) if len(set(shape)) == 1 else f"({', '.join(map(str, shape))})"
    records = "record" if counts == "1" else "records"
    return f"{how} of {len(shape)} photos with {counts} {records} each"


def _rate_notes(decider: Decider, kind: TaskView) -> Iterator[str]:
    """Yield that the errors of joined answers are not known, where they were not measured."""
    if kind not in decider.bases:
        yield (
            f"{decider.joined}: misses and overkill are not known. The more records are joined, "
            "the further they may be from those of single records; a maximum stops more parts"
        )
