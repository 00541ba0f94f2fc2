"""Pair each photo with reference images, and make records of the pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from vlmbench.config import Settings, setting
from vlmbench.data.generated.specimens import rng_of
from vlmbench.data.near_duplicates import distance
from vlmbench.data.photos.lots import Lot
from vlmbench.data.photos.photo import PhotoCopy
from vlmbench.types import Record, Role, Task

RAW = "raw"


class Policy(StrEnum):
    """Which references of its lot a photo is compared with."""

    nearest = "nearest"  # the most similar: by perceptual hash, then by thumbnail
    random = "random"  # a random choice
    all = "all"  # every reference


@dataclass(kw_only=True)
class PairsConfig(Settings):
    """The block `pairs` of conf/source/folder.yaml, mvtec.yaml and huggingface.yaml."""

    config_group: ClassVar[str] = "source.pairs"

    policy: Policy = setting(
        Policy.nearest,
        "References of a photo: nearest (the most similar ones), random, or all of its lot.",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A photo and the reference that it is compared with.

    `number` is the reference's rank among the references of this photo, from 0.
    """

    lot: str
    reference: PhotoCopy
    query: PhotoCopy
    number: int


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
