"""The records of one run: those that train, those that training follows, and those held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from vlmbench.config import RunConfig
from vlmbench.data.defect_sizes import describe_visibility
from vlmbench.data.invalid_rows import MAX_ERRORS
from vlmbench.data.load import Data, data_hash, load_data, read_images
from vlmbench.data.manifest import Manifest, open_manifest
from vlmbench.data.planted import describe_planted
from vlmbench.data.prepared import explain_damage
from vlmbench.data.probes import choose_pairs, limit_probes, make_probes, perturb, reword
from vlmbench.data.prompts import Wording
from vlmbench.data.records import Subset, TrainingSet, check_labels, limit_records
from vlmbench.data.tiled_records import Shown, show_data
from vlmbench.data.tiles import Tiler
from vlmbench.data.viewer import RAW, Viewer, make_viewer, open_sample, without_images
from vlmbench.types import JUDGING, Record, Sample, Split, Task, TokenCount, UserError

MAX_REMEMBERED = 100_000  # different texts whose token counts are remembered
FOLLOWED_TASKS = JUDGING | {Task.CHOOSE_OPTION}


class TokenCounter(Protocol):
    """The part of a model family that records are chosen and checked with."""

    max_tokens: int  # the longest sequence of the model, in positions

    def count_tokens(self, sample: Sample, sizes: Sequence[tuple[int, int]]) -> TokenCount:
        """Return the tokens of a sample whose images have these (width, height); open no image."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples(Sequence[Sample]):
    """Records as samples; each is opened when it is indexed."""

    records: Sequence[Record]
    viewer: Viewer
    wording: Wording

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Sample | Samples:
        if isinstance(index, slice):
            return Samples(self.records[index], self.viewer, self.wording)
        return open_sample(self.records[index], viewer=self.viewer, wording=self.wording)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecords:
    """The records of one run, and how they are shown and worded.

    Training follows `monitored` of the validation split; `validation` is answered afterwards, for
    calibration. `held_out` is the test split with the probes made from it. `token_counts` belong to
    the training records. `shown` are the data as the model sees them: only training records, and
    those that give the validation loss, are tiles. A record that is answered is cut then.
    """

    data: Data
    shown: Shown
    train: TrainingSet
    monitored: Subset
    validation: Subset
    held_out: list[Record]
    viewer: Viewer
    wording: Wording
    notes: tuple[str, ...]
    token_counts: tuple[TokenCount, ...]

    @property
    def tiler(self) -> Tiler | None:
        """Return what cuts records into tiles; None if they are shown whole."""
        return self.shown.tiler

    @property
    def loss_records(self) -> Subset:
        """Return the records that give the validation loss: the tiles of `monitored`."""
        return self.shown.tiles_of(self.monitored)

    def samples(self, records: Sequence[Record]) -> Samples:
        """Return records as samples that are opened when they are indexed."""
        return Samples(records, self.viewer, self.wording)

    def longest_sample(self) -> Sample:
        """Return the training sample with the most tokens."""
        longest = max(range(len(self.train)), key=lambda index: self.token_counts[index].total)
        return self.samples(self.train)[longest]


def load_records(config: RunConfig, counter: TokenCounter) -> RunRecords:
    """Read, check and split the records of a run.

    Raise UserError that names what is wrong, by row if it is in a row.
    """
    cache_dir = Path(config.cache_dir)
    wording = wording_of(config)
    data = load_run_data(config)
    manifest = data.manifest
    shown = show_data(data, config.view, seed=config.seed)
    may_train = shown.data.train

    counts = count_tokens(
        counter, shown.data, wording=wording, max_tokens=config.trainer.max_tokens
    )
    cost = partial(_count_trained_tokens, counter, wording)
    chosen = config.data.select(may_train, cost=cost, seed=config.seed)
    selected = Subset(may_train.manifest, may_train.indices[chosen])
    train = TrainingSet(selected, tuple(config.data.make(selected, seed=config.seed)))

    judging = set(train.count_tasks()) & JUDGING
    check_labels(selected, Split.TRAIN, judging)
    check_labels(data.test, Split.TEST, judging, good_alone=bool(manifest.planted.any()))

    followed = data.val.of_kinds(train.kinds(FOLLOWED_TASKS))
    test = limit_records(data.test, config.eval.limit)

    return RunRecords(
        data=data,
        shown=shown,
        train=train,
        monitored=followed.spread(config.trainer.eval_records),
        validation=limit_records(followed, config.eval.limit),
        held_out=[*test, *_make_all_probes(config, test, shown.tiler)],
        viewer=make_viewer(
            manifest.folder,
            data.train,
            view=config.view,
            cache_dir=cache_dir,
            files=data.files,
        ),
        wording=wording,
        notes=(
            *describe_planted(train, followed, data.test),
            *config.data.notes(data.train.count_tasks()),
            *shown.notes(selected),
            *describe_visibility(
                manifest, data.facts, getattr(counter, "shown_size", None), tiler=shown.tiler
            ),
        ),
        token_counts=(
            *(_token_count(row) for row in counts[selected.indices]),
            *(_count_made(counter, wording, data, record) for record in train.made),
        ),
    )


def _make_all_probes(config: RunConfig, test: Subset, tiler: Tiler | None) -> list[Record]:
    """Return the probes that the settings ask for. Training never sees them.

    Images of different shapes have no tiles that match: they make no probe.
    """
    settings = config.eval
    chosen = choose_pairs(test, settings.perturbed_records, seed=config.data.split_seed)

    controls = make_probes(test) if settings.probes else []
    if tiler is not None:
        controls = [record for record in controls if tiler.misfit(record) is None]
    probes = limit_probes(controls, settings.probe_records)
    if settings.perturbations:
        probes += perturb(chosen)
    if settings.rewordings:
        probes += reword(chosen, config.prompt.rewordings)
    return probes


def load_run_data(config: RunConfig) -> Data:
    """Return the run's data, split and checked for leaks. Raise UserError as `load_data` does."""
    return load_data(
        open_run_manifest(config),
        config.data.split.shares,
        split_seed=config.data.split_seed,
        allow_leak=config.data.allow_leak,
        cache_dir=Path(config.cache_dir),
        group_alike=config.data.group_alike,
        fold=config.data.tested_fold,
    )


def run_data_hash(config: RunConfig) -> str:
    """Return the hash of the run's manifest and images; unchanged files are not read again."""
    return _hash_data(config, open_run_manifest(config))


def start_data_hash(config: RunConfig) -> Callable[[], str]:
    """Do as `run_data_hash` does, but read images beside the caller's work.

    The result is a function that waits for the hash.
    """
    manifest = open_run_manifest(config)
    return ThreadPoolExecutor(1, "data").submit(_hash_data, config, manifest).result


def _hash_data(config: RunConfig, manifest: Manifest) -> str:
    with explain_damage(manifest.path, Path(config.data_dir)):
        facts = read_images(manifest, Path(config.cache_dir))
    return data_hash(manifest, facts)


def open_run_manifest(config: RunConfig) -> Manifest:
    """Return the source's manifest; write it now if it does not exist."""
    path = config.source.prepare(Path(config.data_dir))
    return open_manifest(path, labels=config.source.labels, views={RAW, config.view.name})


def wording_of(config: RunConfig) -> Wording:
    """Return the words of the run's questions and answers."""
    prompt = config.prompt
    return Wording(
        questions=prompt.questions,
        labels=prompt.labels,
        phrases=prompt.phrases,
    )


def count_tokens(
    counter: TokenCounter, data: Data, *, wording: Wording, max_tokens: int | None
) -> NDArray[np.int32]:
    """Return (rows of the manifest, 2): positions of each record, and how many of them carry loss.

    Raise UserError that names each row that is too long.
    """
    limit = min(counter.max_tokens, max_tokens or counter.max_tokens)
    counts = np.zeros((len(data.manifest), 2), np.int32)
    remembered: dict[tuple[Any, ...], TokenCount] = {}  # many records differ only in their images
    errors: list[str] = []

    for records in (data.train, data.val, data.test):
        for index, record in enumerate(records):
            sample = without_images(record, wording=wording)
            sizes = data.sizes(record)
            key = (sample.question, sample.answer, *sizes)
            try:
                count = remembered.get(key) or counter.count_tokens(sample, sizes)
            except UserError as error:
                errors.append(f"{records.location(index)}: {error}")
                continue

            if count.total > limit:
                errors.append(
                    f"{records.location(index)}: the record has {count.total} tokens, more than "
                    f"{limit}; shorten its question or answer, "
                    "or raise trainer.max_tokens if the model allows it"
                )
            if len(errors) >= MAX_ERRORS:
                break
            if len(remembered) < MAX_REMEMBERED:
                remembered[key] = count
            counts[records.indices[index]] = count.total, count.trained

    if errors:
        raise UserError("\n".join(errors[:MAX_ERRORS]))
    return counts


def _count_trained_tokens(counter: TokenCounter, wording: Wording, record: Record) -> int:
    sizes = [(1, 1)] * len(record.images)  # the answer's tokens do not depend on them
    return counter.count_tokens(without_images(record, wording=wording), sizes).trained


def _count_made(counter: TokenCounter, wording: Wording, data: Data, record: Record) -> TokenCount:
    return counter.count_tokens(without_images(record, wording=wording), data.sizes(record))


def _token_count(row: NDArray[np.int32]) -> TokenCount:
    total, trained = row.tolist()
    return TokenCount(total=total, trained=trained)
