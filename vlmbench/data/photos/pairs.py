"""Pair each photo with reference images, and make records of the pairs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from vlmbench.config import Settings, setting
from vlmbench.data.generated.specimens import rng_of
from vlmbench.data.near_duplicates import distance
from vlmbench.data.photos.by_name import compile_name, key_of
from vlmbench.data.photos.lots import Lot, group_units
from vlmbench.data.photos.photo import PhotoCopy
from vlmbench.system.text import typed_setting
from vlmbench.types import Record, Role, Task, UserError

log = logging.getLogger(__name__)

RAW = "raw"


class Policy(StrEnum):
    """Which references of its lot a photo is compared with."""

    nearest = "nearest"  # the most similar: by perceptual hash, then by thumbnail
    random = "random"  # a random choice
    all = "all"  # every reference
    name = "name"  # the one whose name fits: reference_name and query_name


@dataclass(kw_only=True)
class PairsConfig(Settings):
    """The block `pairs` of conf/source/folder.yaml, mvtec.yaml and huggingface.yaml."""

    config_group: ClassVar[str] = "source.pairs"

    policy: Policy = setting(
        Policy.nearest,
        "References of a photo: nearest (the most similar ones), random, all of its lot, or name "
        "(the one whose name fits).",
    )
    reference_name: str = setting(
        "*_temp", "With policy=name: name of a reference, without suffix; * is what a pair shares."
    )
    query_name: str = setting(
        "*_test", "With policy=name: name of a photo to judge, without suffix."
    )
    references: int = setting(2, "Good photos in each lot that are its references.", at_least=1)
    per_query: int | None = setting(
        None, "References of each photo; null: 1, or all with policy=all.", at_least=1, cure="null"
    )
    limit: int | None = setting(
        None, "Largest number of pairs, chosen at random; null: all.", at_least=1, cure="null"
    )
    lots: int | None = setting(
        None,
        "Lots of each category; a lot is photos with common references; null: as many as possible.",
        at_least=1,
        cure="null",
    )
    seed: int = setting(
        0, "Seed of the random choices of lots, references, pairs and comparisons.", at_least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()

        compile_name(self.reference_name, "source.pairs.reference_name")
        compile_name(self.query_name, "source.pairs.query_name")

    @property
    def is_by_name(self) -> bool:
        return self.policy is Policy.name

    def reference_key(self, name: str) -> str | None:
        """Return what a reference's name shares with its pair; None if it is no reference."""
        return key_of(name, compile_name(self.reference_name, "source.pairs.reference_name"))

    def query_key(self, name: str) -> str | None:
        """Return what the name of a photo to judge shares with its pair; None for others."""
        return key_of(name, compile_name(self.query_name, "source.pairs.query_name"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A photo and the reference that it is compared with.

    `number` is the reference's rank among the references of this photo, from 0.
    """

    lot: str
    reference: PhotoCopy
    query: PhotoCopy
    number: int


def make_lots_by_name(
    copies: Sequence[PhotoCopy], config: PairsConfig, source_path: str
) -> list[Lot]:
    """Return a lot for each set of photos that show one part or look the same.

    Its references and queries are told by their names. Raise UserError if no two names fit
    together, or if all photos to judge have one label.
    """
    lots: list[Lot] = []
    for unit in group_units(copies, source_path):
        references = [copy for copy in unit if config.reference_key(copy.photo.name) is not None]
        keys = {config.reference_key(copy.photo.name) for copy in references}
        queries = [copy for copy in unit if config.query_key(copy.photo.name) in keys]
        if references and queries:
            name = f"lot-{queries[0].photo.id}"
            lots.append(
                Lot(
                    name=name,
                    references=tuple(references),
                    queries=tuple(queries),
                    units=(tuple(unit),),
                )
            )

    _check_queries(lots, copies, config, source_path)
    return lots


def _check_queries(
    lots: Sequence[Lot], copies: Sequence[PhotoCopy], config: PairsConfig, source_path: str
) -> None:
    queries = [query for lot in lots for query in lot.queries]
    num_wanted = sum(config.query_key(copy.photo.name) is not None for copy in copies)
    if not queries:
        cure = typed_setting("source.pairs.reference_name", "*_temp")
        raise UserError(
            f"source.path={source_path}: no two photos are named as a pair, such as "
            f"{config.reference_name} and {config.query_name} in one folder; set {cure} and "
            "source.pairs.query_name, or source.pairs.policy=nearest"
        )

    labels = {query.photo.label for query in queries}
    if len(labels) == 1:
        raise UserError(
            f"source.path={source_path}: all {len(queries)} photos to judge are {labels.pop()}, "
            "both labels are needed; add pairs with the other label, such as cut-outs without a "
            "defect"
        )
    if len(queries) < num_wanted:
        log.warning(
            "source.path=%s: %d photos are left out, because no reference has their name",
            source_path,
            num_wanted - len(queries),
        )


def make_pairs(lots: Sequence[Lot], config: PairsConfig) -> list[Pair]:
    """Return the pairs of all lots, at most `config.limit`."""
    pairs = [pair for lot in lots for pair in _pair_photos(lot, config)]
    if config.limit is None or len(pairs) <= config.limit:
        return pairs

    order = rng_of(config.seed, "limit").permutation(len(pairs))
    kept = sorted(order[: config.limit].tolist())

    return [pairs[i] for i in kept]


def _pair_photos(lot: Lot, config: PairsConfig) -> Iterator[Pair]:
    default = len(lot.references) if config.policy is Policy.all else 1
    most = config.per_query or default

    for query in lot.queries:
        references = _rank_references(lot, query, config)[:most]
        for number, reference in enumerate(references):
            yield Pair(
                lot=lot.name,
                reference=reference,
                query=query,
                number=number,
            )


def _rank_references(lot: Lot, query: PhotoCopy, config: PairsConfig) -> list[PhotoCopy]:
    """Return the lot's references, the best one first."""
    references = sorted(lot.references, key=lambda copy: copy.photo.name)

    if config.is_by_name:
        key = config.query_key(query.photo.name)
        return [copy for copy in references if config.reference_key(copy.photo.name) == key]

    if config.policy is Policy.nearest:
        return sorted(references, key=lambda copy: distance(copy.facts, query.facts))

    if config.policy is Policy.random:
        rng = rng_of(config.seed, f"pair-{query.photo.name}")
        return [references[i] for i in rng.permutation(len(references))]

    return references


def make_pair_records(pairs: Sequence[Pair], processed_view: str) -> Iterator[Record]:
    """Yield the records of the pairs.

    judge_pair: the photo beside its reference, raw and processed. judge_single: the photo alone,
    raw and processed, once for each photo. judge_link: the raw reference beside the processed
    photo. With "raw" as the processed view there is no judge_link.
    """
    views = list(dict.fromkeys((RAW, processed_view)))
    names: set[str] = set()

    for pair in pairs:
        name = pair.query.photo.name
        is_first = name not in names
        names.add(name)

        for view in views:
            yield _record(pair, Task.JUDGE_PAIR, view, reference_view=view)
            if is_first:
                yield _record(pair, Task.JUDGE_SINGLE, view)

        if len(views) > 1:
            yield _record(pair, Task.JUDGE_LINK, views[1], reference_view=RAW)


def _record(pair: Pair, task: Task, view: str, *, reference_view: str | None = None) -> Record:
    photo = pair.query.photo
    record_id = f"{photo.id}-{task}-{view}"
    images = [pair.query.image_ref(Role.QUERY, view)]

    if reference_view is not None:
        images.insert(0, pair.reference.image_ref(Role.REFERENCE, reference_view))
        if pair.number:
            record_id += f"-{pair.number}"

    return Record(
        id=record_id,
        task=task,
        images=tuple(images),
        answer=photo.answer,
        label=photo.label,
        group=pair.lot,
        split=photo.split,
        meta=photo.record_meta,
    )
