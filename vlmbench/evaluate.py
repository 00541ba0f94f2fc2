"""Predictions of a model on held-out records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from tqdm import tqdm

from vlmbench.config import EvalConfig, ScoreMethod
from vlmbench.types import LABELS, ImageRef, Prediction, Record, Sample, Task

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone
    from vlmbench.data.prompts import Wording


def predict(
    backbone: Backbone,
    records: Sequence[Record],
    *,
    open_sample: Callable[[Record], Sample],
    shown: Callable[[ImageRef], str],
    wording: Wording,
    settings: EvalConfig,
    title: str | None = "evaluate",
) -> list[Prediction]:
    """A prediction for every record, in their order. `shown` names the file of a picture as the model sees it.

    `title` of the progress bar, None: no bar.
    """
    backbone.model.eval()
    order = sorted(range(len(records)), key=lambda i: records[i].task)
    predictions: dict[int, Prediction] = {}
    with tqdm(total=len(records), desc=title, unit="record", disable=title is None) as bar:
        for task, positions in groupby(order, key=lambda i: records[i].task):
            for batch in _batches(list(positions), settings.batch_size):
                samples = [open_sample(records[i]) for i in batch]
                for i, sample, answer in zip(
                    batch, samples, _answers(backbone, task, samples, wording, settings), strict=True
                ):
                    predictions[i] = _prediction(sample, *answer, shown=shown)
                bar.update(len(batch))
    return [predictions[i] for i in range(len(records))]


def _batches(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _answers(
    backbone: Backbone, task: Task, samples: Sequence[Sample], wording: Wording, settings: EvalConfig
) -> list[tuple[dict[str, float], str | None, str | None]]:
    """(scores, generated text, predicted label) of each sample."""
    if settings.method is ScoreMethod.generate:
        texts = backbone.generate(samples, max_new_tokens=settings.max_new_tokens)
        return [({}, text, wording.parse(text, task)) for text in texts]
    labels = LABELS[task]
    words = wording.label_words(task)
    rows = backbone.score(samples, [words[label] for label in labels]).tolist()
    # The better label wins; on a tie the negative one, which stands first.
    return [(dict(zip(labels, row, strict=True)), None, labels[row.index(max(row))]) for row in rows]


def _prediction(
    sample: Sample,
    scores: dict[str, float],
    text: str | None,
    predicted: str | None,
    *,
    shown: Callable[[ImageRef], str],
) -> Prediction:
    record = sample.record
    return Prediction(
        id=record.id,
        task=record.task,
        group=record.group,
        view=record.view,
        expected=record.label,
        predicted=predicted,
        scores=scores,
        text=text,
        probe=record.probe,
        of=record.of,
        question=sample.question,
        answer=sample.answer,
        images=tuple(shown(image) for image in record.images),
        meta=dict(record.meta),
    )
