"""What one run learns and is asked: its training records, those followed while training, those held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmbench.backbones.base import TokenCount
from vlmbench.config import EvalConfig, TrainerConfig, VariantConfig, ViewConfig
from vlmbench.data.dataset import (
    RAW,
    Subset,
    Viewer,
    check_labels,
    limit_records,
    open_sample,
    reference_pictures,
    without_pictures,
)
from vlmbench.data.load import Data, load_data
from vlmbench.data.manifest import open_manifest
from vlmbench.data.pictures import file_sha256
from vlmbench.data.probes import make_probes
from vlmbench.data.prompts import Wording
from vlmbench.data.wrongs import MAX_ERRORS
from vlmbench.types import JUDGING, ImageRef, Record, Sample, Split, Task, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone

MOST_KNOWN = 100_000  # different texts whose tokens are remembered
FOLLOWED = JUDGING | {Task.CHOOSE_OPTION}


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """The records of one run, and how to open them.

    Of the validation side, `watched` is followed while training, `validation` answered afterwards, for calibration.
    `held_out` has the test side and the probes made from it.
    """

    data: Data
    train: Subset
    watched: Subset
    validation: Subset
    held_out: list[Record]
    viewer: Viewer
    wording: Wording
    notes: tuple[str, ...]
    counts: tuple[TokenCount, ...]  # of each training record

    def open(self, record: Record) -> Sample:
        return open_sample(record, viewer=self.viewer, wording=self.wording)

    def shown(self, image: ImageRef) -> str:
        """The file of a picture as the model sees it, "" for a blank one."""
        path = self.viewer.path(image)
        return "" if path is None else str(path.resolve())


def make_experiment(
    backbone: Backbone,
    manifest_path: Path,
    *,
    labels: Mapping[str, str],
    variant: VariantConfig,
    view: ViewConfig,
    wording: Wording,
    trainer: TrainerConfig,
    evaluation: EvalConfig,
    seed: int,
    cache_dir: Path,
) -> Experiment:
    """Read, check and split a manifest. Raises UserError that names what is wrong, by row where it is a row."""
    manifest = open_manifest(manifest_path, labels=labels, views={RAW, view.name})
    shares = {split: getattr(variant.split, split) for split in Split}
    data = load_data(
        manifest, shares, split_seed=variant.split_seed, allow_leak=variant.allow_leak, cache_dir=cache_dir
    )
    counts = count_tokens(backbone, data, wording=wording, max_tokens=trainer.max_tokens)
    cost = partial(_trained_tokens, backbone, wording)
    train = Subset(manifest, data.train.indices[variant.select(data.train, cost=cost, seed=seed)])
    judging = set(train.tasks()) & JUDGING
    check_labels(train, Split.TRAIN, judging)
    check_labels(data.test, Split.TEST, judging)
    test = limit_records(data.test, evaluation.limit)
    followed = _followed(data.val, train)
    return Experiment(
        data=data,
        train=train,
        watched=_spread(followed, trainer.eval_records),
        validation=limit_records(followed, evaluation.limit),
        held_out=[*test, *(make_probes(test) if evaluation.probes else [])],
        viewer=make_viewer(manifest.folder, data.train, view=view, cache_dir=cache_dir),
        wording=wording,
        notes=tuple(variant.notes(data.train.tasks())),
        counts=tuple(TokenCount(total=int(total), trained=int(trained)) for total, trained in counts[train.indices]),
    )


def count_tokens(backbone: Backbone, data: Data, *, wording: Wording, max_tokens: int | None) -> NDArray[np.int32]:
    """(rows of the manifest, 2): positions of each record at the run's settings, and how many of them carry loss.

    Raises UserError that names each row that is too long.
    """
    limit = min(backbone.max_tokens, max_tokens or backbone.max_tokens)
    counts = np.zeros((len(data.manifest), 2), np.int32)
    known: dict[tuple[Any, ...], TokenCount] = {}  # many records differ in their pictures alone
    errors: list[str] = []
    for records in (data.train, data.val, data.test):
        for position, record in enumerate(records):
            sample, sizes = without_pictures(record, wording=wording), data.sizes(record)
            key = (sample.question, sample.answer, *sizes)
            try:
                count = known.get(key) or backbone.count_tokens(sample, sizes)
            except UserError as error:
                errors.append(f"{records.place(position)}: {error}")
                continue
            if count.total > limit:
                errors.append(
                    f"{records.place(position)}: the record has {count.total} tokens, more than {limit}; shorten its "
                    "question or answer, or raise trainer.max_tokens where the model allows it"
                )
            if len(errors) >= MAX_ERRORS:
                break
            if len(known) < MOST_KNOWN:
                known[key] = count
            counts[records.indices[position]] = count.total, count.trained
    if errors:
        raise UserError("\n".join(errors[:MAX_ERRORS]))
    return counts


def _trained_tokens(backbone: Backbone, wording: Wording, record: Record) -> int:
    # How large the pictures are does not matter to the answer's tokens.
    return backbone.count_tokens(without_pictures(record, wording=wording), [(1, 1)] * len(record.images)).trained


def make_viewer(folder: Path | None, train: Subset, *, view: ViewConfig, cache_dir: Path) -> Viewer:
    """What shows pictures of `folder` (None: of anywhere) as the run that trains on `train` does."""
    references = reference_pictures(train)
    return Viewer(
        folder,
        name=view.name,
        process=view.build(references),
        fingerprint=view.fingerprint([file_sha256(path) for path in references]),
        cache=cache_dir,
    )


def _followed(val: Subset, train: Subset) -> Subset:
    """The validation records of the judging and choosing tasks and views that train."""
    trained = {(record.task, record.view) for record in train if record.task in FOLLOWED}
    positions = [i for i, record in enumerate(val) if (record.task, record.view) in trained]
    return Subset(val.manifest, val.indices[positions])


def _spread(records: Subset, most: int) -> Subset:
    """At most so many of them, spread evenly."""
    if len(records) <= most:
        return records
    return Subset(records.manifest, records.indices[np.linspace(0, len(records) - 1, most).round().astype(np.int64)])
