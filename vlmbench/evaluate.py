"""Predictions of a model on held-out records."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from vlmbench.config import EvalConfig, ScoreMethod
from vlmbench.types import ImageRef, Prediction, Record, Sample, Task

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone
    from vlmbench.data.prompts import Wording

Item = TypeVar("Item")
Answer = tuple[dict[str, float], str | None, str | None]  # scores, generated text, predicted label
Answers = Callable[[], list[Answer]]  # of a batch's samples; may have to wait for the GPU


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
    order = sorted(range(len(records)), key=lambda i: (records[i].task, records[i].labels))
    predictions: dict[int, Prediction] = {}

    def asked() -> Iterator[tuple[list[int], list[Sample], Answers]]:
        for _, positions in groupby(order, key=lambda i: (records[i].task, records[i].labels)):
            for batch in _batches(list(positions), settings.batch_size):
                samples = [open_sample(records[i]) for i in batch]
                yield batch, samples, _ask(backbone, samples, wording, settings)

    with tqdm(total=len(records), desc=title, unit="record", disable=title is None) as bar:
        for batch, samples, answers in one_behind(asked()):
            for i, sample, answer in zip(batch, samples, answers(), strict=True):
                predictions[i] = _prediction(sample, *answer, shown=shown)
            bar.update(len(batch))
    return [predictions[i] for i in range(len(records))]


def _batches(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def one_behind(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each once the next one is made: a GPU works on that one while the processor looks at this one."""
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _ask(backbone: Backbone, samples: Sequence[Sample], wording: Wording, settings: EvalConfig) -> Answers:
    """Set the model to work on samples of one task and one set of labels."""
    if settings.method is ScoreMethod.generate:
        texts = backbone.generate(samples, max_new_tokens=settings.max_new_tokens)
        return lambda: [
            ({}, text, _parsed(wording, text, sample.record)) for text, sample in zip(texts, samples, strict=True)
        ]
    labels = samples[0].record.labels
    words = wording.words_of(samples[0].record)
    scores = backbone.score(samples, [words[label] for label in labels])
    return lambda: [_best(labels, row) for row in scores.tolist()]


def _parsed(wording: Wording, text: str, record: Record) -> str | None:
    if record.task is Task.CHOOSE_OPTION:
        return wording.parse_option(text, record.options)
    return wording.parse(text, record.task)


def _best(labels: Sequence[str], row: Sequence[float]) -> Answer:
    # The better label wins; on a tie the negative one, which stands first.
    return dict(zip(labels, row, strict=True)), None, labels[row.index(max(row))]


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
