"""Records with planted defects: which of them take part in a run, and what its reader must know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from vlmbench.data.manifest import NO_SPLIT, SPLITS, Manifest, SplitIndices
from vlmbench.types import JUDGING, LABELS, PLANTED, Record, Split

LEFT_OUT = "left_out"
NO_MISSES = (
    "the test split has no abnormal record, so misses could not be measured. Overkill is measured "
    "on real photos of good parts"
)


def leave_out_planted(manifest: Manifest, splits: SplitIndices) -> SplitIndices:
    """Return the split of each record, NO_SPLIT for planted defects that must not measure.

    No planted defect tests. They validate only the tasks and views of which the validation split
    has no real defect.
    """
    if not manifest.planted.any():
        return splits

    left_out = manifest.planted & (splits == SPLITS.index(Split.TEST))
    validation = np.flatnonzero(splits == SPLITS.index(Split.VAL)).tolist()
    records = {index: manifest[index] for index in validation}
    real = {
        (record.task, record.view)
        for index, record in records.items()
        if not manifest.planted[index] and is_positive(record)
    }
    for index, record in records.items():
        left_out[index] |= manifest.planted[index] and (record.task, record.view) in real

    return np.where(left_out, NO_SPLIT, splits).astype(np.int8)


def count_images(manifest: Manifest, splits: SplitIndices | None) -> dict[str, int]:
    """Return how many images with a planted defect each split has; `left_out` are in no split.

    Without `splits` all are. The result is empty for a manifest without planted defects.
    """
    if not manifest.planted.any():
        return {}

    split_of = np.full(len(manifest), NO_SPLIT) if splits is None else splits
    numbers = {str(split): index for index, split in enumerate(SPLITS)} | {LEFT_OUT: NO_SPLIT}
    images = manifest.images[:, 1]
    return {
        name: len(np.unique(images[manifest.planted & (split_of == number)]))
        for name, number in numbers.items()
    }


def counts_sentence(counts: Mapping[str, int]) -> str:
    """Return what `count_images` counted, in words; "" for nothing."""
    if not counts:
        return ""

    return (
        f"{sum(counts.values())} images have planted defects: {counts[Split.TRAIN]} train, "
        f"{counts[Split.VAL]} validate, {counts[LEFT_OUT]} are in no split, because planted "
        "defects never test"
    )


def is_positive(record: Record) -> bool:
    """Return whether a record has its task's positive label."""
    return record.task in LABELS and record.label == LABELS[record.task][1]


def count_planted(records: Iterable[Record]) -> int:
    """Return how many of the records have planted defects."""
    return sum(PLANTED in record.meta for record in records)


def describe_planted(
    train: Iterable[Record], validation: Iterable[Record], test: Iterable[Record]
) -> list[str]:
    """Return what readers of a run's figures must know of planted defects, a sentence each.

    The arguments are the judging and other records of the splits. No planted defect: no sentence.
    """
    abnormal = {
        name: [record for record in records if record.task in JUDGING and is_positive(record)]
        for name, records in (("train", train), ("val", validation), ("test", test))
    }
    num_train, num_val = count_planted(abnormal["train"]), count_planted(abnormal["val"])
    sentences = []
    if num_train:
        sentences.append(
            f"{num_train} of {len(abnormal['train'])} abnormal training records have planted "
            "defects: the model learned defects that software drew into good photos"
        )
    if num_val:
        sentences.append(
            f"all {num_val} abnormal validation records have planted defects. The checkpoint, the "
            "calibration and thresholds rest on them, and say nothing of real defects"
        )
    if (num_train or num_val) and not abnormal["test"]:
        sentences.append(NO_MISSES)
    return sentences
