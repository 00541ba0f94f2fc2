"""Answers of a model to records, as predictions."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from vlmbench.config import EvalConfig, ScoreMethod
from vlmbench.data.prompts import Wording
from vlmbench.data.tiles import NUM_TILES, TILE, Tiler
from vlmbench.data.viewer import Viewer, open_sample
from vlmbench.stats import join_tiles
from vlmbench.types import ImageRef, Prediction, Record, Sample, Task, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.contract import Backbone

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer: `scores` of each label (nats), or a generated `text`, and the `label` chosen."""

    scores: dict[str, float]
    text: str | None
    label: str | None


Pending = Callable[[], list[Answer]]  # answers of a batch, which may still be computed on the GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """A model that is ready to answer records, shown by `viewer` in the words of `wording`.

    `component_of` returns the component of a part in records of a task, "" for none. `tiler` cuts
    records into tiles, which are answered and joined to one answer; None: no record is cut.
    """

    backbone: Backbone
    viewer: Viewer
    wording: Wording
    settings: EvalConfig
    component_of: Callable[[Task, str], str] = lambda task, group: ""
    tiler: Tiler | None = None

    def score(self, records: Sequence[Record], *, progress: str | None = None) -> list[Prediction]:
        """Answer with the labels' log-probabilities, whatever `eval.method` is."""
        settings = replace(self.settings, method=ScoreMethod.score)
        return replace(self, settings=settings).answer(records, progress=progress)

    def write(self, records: Sequence[Record], *, progress: str | None = None) -> list[Prediction]:
        """Answer with generated sentences, whatever `eval.method` is."""
        settings = replace(self.settings, method=ScoreMethod.generate)
        return replace(self, settings=settings).answer(records, progress=progress)

    def answer(self, records: Sequence[Record], *, progress: str | None = None) -> list[Prediction]:
        """Return a prediction for every record, in their order.

        `progress` titles a progress bar; None shows no bar.
        """
        self.backbone.model.eval()
        with tqdm(
            total=len(records), desc=progress, unit="record", disable=progress is None
        ) as bar:
            if self.tiler is None:
                return self._answer(records, bar.update)

            joined: list[Prediction] = []
            for chunk in self.tiler.chunks(records):
                tiles = [tile for _, tiles in chunk for tile in tiles]
                predictions = iter(self._answer(tiles, lambda _: None))
                for record, tiles in chunk:
                    members = list(islice(predictions, len(tiles)))
                    joined.append(_join_tiles(record, tiles, members))
                bar.update(len(chunk))
            return joined

    def _answer(
        self, records: Sequence[Record], advance: Callable[[int], object]
    ) -> list[Prediction]:
        """Return a prediction for every record, none of them cut; `advance` gets their number."""
        predictions: dict[int, Prediction] = {}
        for batch, samples, pending in one_behind(self._batches(records)):
            for index, sample, answer in zip(batch, samples, pending(), strict=True):
                predictions[index] = self._prediction(sample, answer)
            advance(len(batch))

        return [predictions[index] for index in range(len(records))]

    def _batches(
        self, records: Sequence[Record]
    ) -> Iterator[tuple[list[int], list[Sample], Pending]]:
        """Yield batches of one task and one set of labels, each at work in the model."""

        def kind(index: int) -> tuple[Task, tuple[str, ...]]:
            return records[index].task, records[index].labels

        size = self.settings.num_rows()
        for _, group in groupby(sorted(range(len(records)), key=kind), key=kind):
            indices = list(group)
            for start in range(0, len(indices), size):
                batch = indices[start : start + size]
                samples = [self._open(records[index]) for index in batch]
                yield batch, samples, self._ask(samples)

    def _ask(self, samples: Sequence[Sample]) -> Pending:
        """Set the model to work on samples of one task and one set of labels."""
        if self.settings.method is ScoreMethod.generate:
            texts = self.backbone.generate(samples, max_new_tokens=self.settings.max_new_tokens)
            return lambda: [
                Answer(
                    scores={},
                    text=text,
                    label=self._parse(text, sample.record),
                )
                for text, sample in zip(texts, samples, strict=True)
            ]

        labels = samples[0].record.labels
        words = self.wording.words_of(samples[0].record)
        scores = self.backbone.score(samples, [words[label] for label in labels])
        return lambda: [
            _likeliest(labels, row, sample.record)
            for row, sample in zip(scores.tolist(), samples, strict=True)
        ]

    def _parse(self, text: str, record: Record) -> str | None:
        if record.task is Task.CHOOSE_OPTION:
            return self.wording.parse_option(text, record.options)
        return self.wording.parse(text, record.task)

    def _open(self, record: Record) -> Sample:
        return open_sample(record, viewer=self.viewer, wording=self.wording)

    def _shown_file(self, image: ImageRef) -> str:
        """Return the file of an image as the model sees it; "" for a blank one."""
        path = self.viewer.path(image)
        return "" if path is None else str(path.resolve())

    def _prediction(self, sample: Sample, answer: Answer) -> Prediction:
        record = sample.record
        return Prediction(
            id=record.id,
            task=record.task,
            group=record.group,
            view=record.view,
            expected=record.label,
            predicted=answer.label,
            scores=answer.scores,
            text=answer.text,
            probe=record.probe,
            of=record.of,
            change=record.change,
            question=sample.question,
            answer=sample.answer,
            images=tuple(self._shown_file(image) for image in record.images),
            meta=dict(record.meta),
            component=self.component_of(record.task, record.group),
        )


def _join_tiles(
    record: Record, tiles: Sequence[Record], members: Sequence[Prediction]
) -> Prediction:
    """Return one prediction for a record from those of its tiles; its `meta` names the tile."""
    if len(tiles) == 1:
        return members[0]

    joined, chosen = join_tiles(members)
    return replace(
        joined, id=record.id, expected=record.label, meta=tile_meta(record, tiles, chosen)
    )


def tile_meta(record: Record, tiles: Sequence[Record], chosen: int) -> dict[str, str]:
    """Return the `meta` of a record whose tile `chosen` decided.

    It lacks the region of the defect: a tile's answer names a region of the tile.
    """
    meta = {key: value for key, value in record.meta.items() if key != "region"}
    box = tiles[chosen].images[-1].box or ()
    return {**meta, TILE: ", ".join(map(str, box)), NUM_TILES: str(len(tiles))}


def one_behind(items: Iterable[Item]) -> Iterator[Item]:
    """Yield each item after the next one is made: the GPU works while the processor looks back."""
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _likeliest(labels: Sequence[str], scores: Sequence[float], record: Record) -> Answer:
    """Return the label with the highest score; on a tie the negative one, which stands first.

    Raise UserError if a score is NaN or infinite.
    """
    for label, score in zip(labels, scores, strict=True):
        if not math.isfinite(score):
            raise UserError(
                f"record {record.id!r}: the score of {label!r} is {score}, because numbers in the "
                "model became too large; train again with a lower trainer.learning_rate, or on a "
                "GPU that has bf16"
            )
    best = labels[scores.index(max(scores))]
    return Answer(
        scores=dict(zip(labels, scores, strict=True)),
        text=None,
        label=best,
    )
