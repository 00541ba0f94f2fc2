"""Say before training which parts a split lacks, and the setting that cures it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np

from vlmbench.config import RunConfig, VariantConfig
from vlmbench.data.load import Data
from vlmbench.data.manifest import NO_SPLIT, SPLITS, Manifest, SplitIndices, open_manifest
from vlmbench.data.photos.source import PairedSourceConfig
from vlmbench.data.photos.stock import Stock, read_stocks
from vlmbench.data.splits import split_records
from vlmbench.data.viewer import RAW
from vlmbench.stats.calibrate import GOOD_PARTS, GOOD_RECORDS
from vlmbench.stats.clusters import MIN_EFFECTIVE
from vlmbench.types import LABELS, Fold, Split, Task, UserError

MIN_TRAIN = 0.3  # smallest share of the training set that is proposed
STEP = 0.05  # between the shares that are tried
FOLDS = 5  # that are proposed
FEW_PARTS = 60  # with more parts, one test set tells enough


def data_needs(data: Data, config: RunConfig) -> list[str]:
    """Return what the validation and test set of a run's data lack, a sentence each."""
    splits = np.full(len(data.manifest), NO_SPLIT, dtype=np.int8)
    for index, split in enumerate(SPLITS):
        splits[getattr(data, split.value).indices] = index

    return describe_needs(data.manifest, splits, config)


def manifest_needs(path: Path, config: RunConfig) -> list[str]:
    """Return what the validation and test set of a manifest would lack, a sentence each."""
    views = {RAW, config.view.name}
    manifest = open_manifest(path, labels=config.source.labels, views=views)
    data = config.data
    try:
        splits = split_records(
            manifest,
            data.split.shares,
            seed=data.split_seed,
            by_part_only=data.allow_leak,
            fold=data.tested_fold,
        )
    except UserError:  # the datasheet says why
        return []

    return describe_needs(manifest, splits, config)


def describe_needs(manifest: Manifest, splits: SplitIndices, config: RunConfig) -> list[str]:
    """Return a sentence for each thing that the validation and test set lack."""
    return [
        *_lacking_parts(manifest, splits, config),
        *_lacking_labels(manifest, splits),
    ]


def _lacking_parts(manifest: Manifest, splits: SplitIndices, config: RunConfig) -> Iterator[str]:
    data, unit = config.data, config.source.unit
    needed = {Split.VAL: GOOD_PARTS, Split.TEST: ceil(MIN_EFFECTIVE)}
    counts = _count_parts(manifest, splits)
    total = sum(counts.values())
    if data.folds is not None:
        counts[Split.TEST] = total  # in all folds together
    lacking = [split for split, most in needed.items() if counts[split] < most]
    if not lacking or any(data.split.shares[split] == 0 for split in lacking):
        return

    have = " and ".join(f"the {split} set has {counts[split]}" for split in lacking)
    problem = (
        f"{have} {unit}: calibration needs {needed[Split.VAL]} in the val set, a verdict "
        f"{needed[Split.TEST]} in the test set"
    )
    shares = _find_shares(manifest, data, needed, data.folds)
    folds = _offer_folds(manifest, data, needed, total)
    also = f", or {folds}" if folds else ""
    if shares is not None:
        yield f"{problem}; set {_typed_shares(shares)}{also}"
    elif isinstance(config.source, PairedSourceConfig):
        yield f"{problem}. {_more_lots(read_stocks(manifest.path), config.source, total)}{also}"
    else:
        yield f"{problem}. The data have {total} {unit}; add {unit}{also}"


def _offer_folds(
    manifest: Manifest, data: VariantConfig, needed: Mapping[Split, int], total: int
) -> str:
    """Return the settings of a cross-validation that has what is needed; "" if none has."""
    if data.folds is not None or not needed[Split.TEST] <= total < FEW_PARTS:
        return ""

    shares = _find_shares(manifest, data, needed, FOLDS)
    if shares is None:
        return ""
    return f"test every part once: add data.folds={FOLDS} {_typed_shares(shares)} -m"


def _typed_shares(shares: Mapping[Split, float]) -> str:
    text = ", ".join(f"{split}: {share:g}" for split, share in shares.items())
    return f"'data.split={{{text}}}'"


def _more_lots(stocks: Sequence[Stock], source: PairedSourceConfig, total: int) -> str:
    """Return what gives more lots: settings that do, or the photos that are lacking."""

    def count(references: int, parts: int) -> int:
        return sum(stock.count_lots(references=references, parts=parts) for stock in stocks)

    references, parts, have = source.pairs.references, source.parts_of_lot, f"make {total} lots"
    if source.pairs.lots is not None:
        if count(references, parts) > total:
            return f"All photos {have}; set source.pairs.lots=null for more, or add photos"
        return f"All photos {have}; add photos"

    fewer, apart = "source.pairs.references=1", "source.compare_views=false"
    offers = (
        (count(1, parts), f"{fewer} for more lots from the same photos"),
        (count(references, 1), f"{apart} for more lots without comparison records"),
        (count(1, 1), f"{fewer} {apart} for more lots without comparison records"),
    )
    for number, offer in offers:
        if number > count(references, parts):
            return f"All photos {have}; set {offer}, or add photos"

    bad = sum(stock.bad for stock in stocks)
    bad_parts = sum(stock.bad_parts for stock in stocks)
    if 0 < bad_parts <= total:
        shown = f"The {bad} abnormal photos"
        if bad > bad_parts:
            return f"{shown} of {bad_parts} parts {have}; add photos of other abnormal parts"
        return f"{shown} {have}; add photos that are abnormal"
    return f"All photos {have}; add good photos of more parts"


def _find_shares(
    manifest: Manifest, data: VariantConfig, needed: Mapping[Split, int], folds: int | None
) -> dict[Split, float] | None:
    """Return the shares with the largest training set that give each split what it needs.

    With `folds`, each fold must have the validation set, and all of them together the test set.
    """
    tried = [
        (round(1 - val - test, 2), round(val, 2), round(test, 2))
        for val in np.arange(0.1, 0.4, STEP)
        for test in np.arange(0.2, 0.6, STEP)
    ]
    for train, val, test in sorted(tried, reverse=True):
        if train < MIN_TRAIN:
            break

        shares = {Split.TRAIN: train, Split.VAL: val, Split.TEST: test}
        if _suffice(manifest, data, shares, needed, folds):
            return shares

    return None


def _suffice(
    manifest: Manifest,
    data: VariantConfig,
    shares: Mapping[Split, float],
    needed: Mapping[Split, int],
    folds: int | None,
) -> bool:
    """Return whether splits by these shares have the needed parts."""
    for fold in [Fold(index, folds) for index in range(folds)] if folds else [None]:
        try:
            splits = split_records(
                manifest, shares, seed=data.split_seed, by_part_only=data.allow_leak, fold=fold
            )
        except UserError:
            return False

        counts = _count_parts(manifest, splits)
        if fold is not None:
            counts[Split.TEST] = sum(counts.values())
        if any(counts[split] < most for split, most in needed.items()):
            return False

    return True


def _count_parts(manifest: Manifest, splits: SplitIndices) -> dict[Split, int]:
    return {
        split: len(np.unique(manifest.groups[splits == index]))
        for index, split in enumerate(SPLITS)
    }


def _lacking_labels(manifest: Manifest, splits: SplitIndices) -> Iterator[str]:
    """Yield a sentence if the test set has few pairs of one label."""
    labels: Counter[str] = Counter()
    for index in np.flatnonzero(splits == SPLITS.index(Split.TEST)).tolist():
        record = manifest[index]
        if record.task is Task.JUDGE_PAIR and record.view == RAW:
            labels[record.label] += 1
    if not labels:
        return

    good, bad = LABELS[Task.JUDGE_PAIR]
    for label, rate in ((bad, "misses"), (good, "false alarms")):
        if label == bad and not labels[label] and manifest.planted.any():
            yield (
                f"the test set has no {label} pair: {rate} cannot be measured, only false alarms. "
                f"Planted defects never test; add photos that are {label}"
            )
        elif labels[label] < GOOD_RECORDS:
            yield (
                f"the test set has {labels[label]} {label} of {labels.total()} raw pairs: the rate "
                f"of {rate} will be known only roughly. At least {GOOD_RECORDS} are needed; add "
                f"photos that are {label}"
            )
