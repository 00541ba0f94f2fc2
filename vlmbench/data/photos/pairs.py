"""Which good photo a photo is compared with, and the records that this gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from vlmbench.config import check_range
from vlmbench.data.looks import distance
from vlmbench.data.photos.lots import Lot
from vlmbench.data.photos.photo import Copy
from vlmbench.data.specimens import rng_of
from vlmbench.types import Record, Role, Task

RAW = "raw"


class Policy(StrEnum):
    """Which of its lot's references a photo is compared with."""

    nearest = "nearest"  # those that look most like it: perceptual hash, then thumbnail
    random = "random"  # drawn
    all = "all"  # every one


@dataclass(kw_only=True)
class PairsConfig:
    """The same in conf/source/folder.yaml, mvtec.yaml and huggingface.yaml, under `pairs`."""

    policy: Policy = Policy.nearest
    references: int = 2  # good photos that each lot keeps as its references
    per_query: int | None = None  # references that a photo is compared with; None: one, or with policy=all every one
    limit: int | None = None  # pairs in all, drawn; None: all
    lots: int | None = None  # of each category; None: as many as there are good photos for
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("source.pairs.references", self.references, 1)
        check_range("source.pairs.per_query", self.per_query, 1)
        check_range("source.pairs.limit", self.limit, 1)
        check_range("source.pairs.lots", self.lots, 1)
        check_range("source.pairs.seed", self.seed, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A photo, the reference that it is compared with, and which of its references that is."""

    lot: str
    reference: Copy
    query: Copy
    number: int


def make_pairs(lots: Sequence[Lot], config: PairsConfig) -> list[Pair]:
    """The pairs of all lots."""
    pairs = [pair for lot in lots for pair in _pairs_of(lot, config)]
    if config.limit is None or len(pairs) <= config.limit:
        return pairs
    kept = rng_of(config.seed, "limit").permutation(len(pairs))[: config.limit]
    return [pairs[i] for i in sorted(kept.tolist())]


def _pairs_of(lot: Lot, config: PairsConfig) -> Iterator[Pair]:
    most = config.per_query or (len(lot.references) if config.policy is Policy.all else 1)
    for query in lot.queries:
        for number, reference in enumerate(_ordered(lot, query, config)[:most]):
            yield Pair(lot=lot.name, reference=reference, query=query, number=number)


def _ordered(lot: Lot, query: Copy, config: PairsConfig) -> list[Copy]:
    """The lot's references, the first choice first."""
    references = sorted(lot.references, key=lambda copy: copy.photo.name)
    if config.policy is Policy.nearest:
        return sorted(references, key=lambda copy: distance(copy.facts, query.facts))
    if config.policy is Policy.random:
        drawn = rng_of(config.seed, f"pair-{query.photo.name}").permutation(len(references))
        return [references[i] for i in drawn]
    return references


def pair_records(pairs: Sequence[Pair], processed_view: str) -> Iterator[Record]:
    """The tasks that the pairs give: judged beside the reference and alone, raw and processed, and across views.

    A photo that is compared with several references is judged alone once. With "raw" as the processed view there is
    but one view, and nothing across views.
    """
    views = list(dict.fromkeys((RAW, processed_view)))
    alone: set[str] = set()
    for pair in pairs:
        first = pair.query.photo.name not in alone
        alone.add(pair.query.photo.name)
        for view in views:
            yield _record(pair, Task.JUDGE_PAIR, view, reference_view=view)
            if first:
                yield _record(pair, Task.JUDGE_SINGLE, view)
        if len(views) > 1:
            yield _record(pair, Task.JUDGE_LINK, views[1], reference_view=RAW)


def _record(pair: Pair, task: Task, view: str, *, reference_view: str | None = None) -> Record:
    photo = pair.query.photo
    images = [pair.query.shown(Role.QUERY, view)]
    if reference_view is not None:
        images.insert(0, pair.reference.shown(Role.REFERENCE, reference_view))
    return Record(
        id=f"{photo.id}-{task}-{view}" + (f"-{pair.number}" if pair.number and reference_view is not None else ""),
        task=task,
        images=tuple(images),
        answer=photo.answer,
        label=photo.label,
        group=pair.lot,
        split=photo.split,
        meta=photo.said,
    )
