"""stage=check: read all that a run would read, show what it would learn, and say what it costs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vlmbench import stats
from vlmbench.backbones.batches import IGNORED
from vlmbench.data.census import validation_counts
from vlmbench.data.load import Data
from vlmbench.data.nearest import describe_near
from vlmbench.data.planted import count_planted
from vlmbench.data.run_records import load_records
from vlmbench.pipeline.cost import cost_of
from vlmbench.pipeline.expect import expected_time
from vlmbench.pipeline.prune import check_pruner
from vlmbench.pipeline.run import Run
from vlmbench.pipeline.split_needs import data_needs
from vlmbench.system import load, phases
from vlmbench.types import Record, Sample, Task, TokenCount

if TYPE_CHECKING:
    from vlmbench.backbones.contract import Backbone

log = logging.getLogger(__name__)

MIN_REPEATS = 4  # repeats of one token, such as an image's, that are shown as their number


def check(run: Run) -> None:
    """Check the run without training. Raise UserError for what would stop it."""
    config = run.config
    check_pruner(config.pruner, config.trainer)
    engine, reason = run.choose_engine()
    precision, why = run.choose_precision()
    config.model.check_precision(config.trainer.precision)
    phases.begin()
    load.begin()
    backbone = run.build(engine, weights=False)
    records = load_records(config, backbone)

    for line in describe_splits(records.data, config.source.unit):
        log.info("%s", line)
    for line in describe_nearest(records.data):
        log.info("%s", line)
    for record in longest_answers(records.train, records.token_counts):
        log.info("record %s; the model learns the part between >>> and <<<:", record.id)
        sample = records.samples([record])[0]
        log.info("%s\n", show_loss_mask(backbone, sample))

    cost = cost_of(backbone, records, settings=config.trainer, store=config.store)
    for line in cost.lines():
        log.info("%s", line)
    log.info("engine            %s (%s), trainer.vision=%s", engine, reason, config.trainer.vision)
    log.info("precision         %s (%s)", precision, why)

    kinds = ((record.task, record.view) for record in records.train)
    shortages = stats.calibration_shortages(validation_counts(records.validation, kinds))
    needs = data_needs(records.data, config)
    for warning in (*records.data.warnings, *records.notes, *shortages, *needs):
        log.warning("%s", warning)
    log.info("expected time     %s", expected_time(run, records, cost))
    for sentence in config.model.requirements():
        log.warning("model=%s cannot run on this machine: %s", run.choices["model"], sentence)
    log.info("the check found no error; stage=run starts the run")


def describe_splits(data: Data, unit: str = "parts") -> Iterator[str]:
    """Yield a line for each split: its parts, its records by task, its labels.

    `unit` is what the parts are called.
    """
    for name, records in (("train", data.train), ("val", data.val), ("test", data.test)):
        labels = Counter(record.label for record in records)
        by_task = ", ".join(f"{count:,} {task}" for task, count in records.count_tasks().items())
        by_label = ", ".join(f"{count:,} {label}" for label, count in sorted(labels.items()))
        if num_planted := count_planted(records):
            by_label += f" ({num_planted:,} with planted defects)"
        parts = records.count_parts()
        yield f"{name:5} {parts:,} {unit}, {len(records):,} records: {by_task}; {by_label}"


def describe_nearest(data: Data) -> Iterator[str]:
    """Yield a line for each of the nearest pairs of images in two splits, below a title."""
    pairs = describe_near(data.manifest, data.near)
    if pairs:
        yield "the nearest images of two splits (the datasheet of stage=prepare shows them):"
    for pair in pairs:
        first, second = (
            f"{name} ({split})" for name, split in zip(pair["images"], pair["splits"], strict=True)
        )
        judgement = f"{pair['judgement']}, distance {pair['distance']:.2f}"
        yield f"  {first} and {second}, {pair['orientation']}: {judgement}"


def longest_answers(train: Sequence[Record], counts: Sequence[TokenCount]) -> list[Record]:
    """Return the record with the longest answer for each training task.

    `counts` are the tokens of each record.
    """
    longest: dict[Task, tuple[int, Record]] = {}
    for record, count in zip(train, counts, strict=True):
        if record.task not in longest or count.trained > longest[record.task][0]:
            longest[record.task] = count.trained, record
    return [record for _, record in longest.values()]


def show_loss_mask(backbone: Backbone, sample: Sample) -> str:
    """Return the record as the model reads it, with >>> and <<< around the part that carries loss.

    Many repeats of one token, such as an image's, are shown as their number. Other tokens are
    decoded together, because one Japanese character may be several tokens.
    """
    batch = backbone.collate([sample], with_answer=True)
    ids = batch["input_ids"][0].tolist()
    carries_loss = (batch["labels"][0] != IGNORED).tolist()

    def text(tokens: list[int]) -> str:
        return str(backbone.tokenizer.decode(tokens, clean_up_tokenization_spaces=False))

    pieces: list[str] = []
    pending: list[int] = []
    inside = False
    for token, is_trained, count in _runs_of_tokens(ids, carries_loss):
        is_repeated = count >= MIN_REPEATS
        if is_repeated or is_trained != inside:
            pieces.append(text(pending))
            pending = []
        if is_trained != inside:
            pieces.append(">>>" if is_trained else "<<<")
            inside = is_trained

        if is_repeated:
            pieces.append(f"[{text([token])} x {count}]")
        else:
            pending += [token] * count

    pieces.append(text(pending))
    return "".join([*pieces, "<<<"] if inside else pieces)


def _runs_of_tokens(
    ids: Sequence[int], carries_loss: Sequence[bool]
) -> Iterator[tuple[int, bool, int]]:
    """Yield each stretch of equal tokens as (token, whether it carries loss, length)."""
    start = 0
    for index in range(1, len(ids) + 1):
        at_end = index == len(ids)
        if at_end or (ids[index], carries_loss[index]) != (ids[start], carries_loss[start]):
            yield ids[start], carries_loss[start], index - start
            start = index
