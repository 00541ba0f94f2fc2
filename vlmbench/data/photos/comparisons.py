"""Comparison records of photos: a raw photo beside a processed one, of the same part or of another part of its lot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlmbench.data.photos.lots import Lot
from vlmbench.data.photos.pairs import RAW, Pair
from vlmbench.data.photos.photo import GOOD, Copy
from vlmbench.data.specimens import rng_of
from vlmbench.types import Record, Role, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A photo that is shown raw, beside `same` and beside `other` processed: one of its part, one of another part."""

    lot: str
    raw: Copy
    same: Copy
    other: Copy


def make_comparisons(lots: Sequence[Lot], pairs: Sequence[Pair], *, seed: int) -> list[Comparison]:
    """Half as many of each lot, rounded up, as it has photos to judge: each gives two records.

    Good photos alone, so that the defect does not tell the part; none of a lot whose good photos show one part.
    """
    judged: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        judged[pair.lot].add(pair.query.photo.name)
    return [
        comparison
        for lot in lots
        for comparison in _of_lot(lot, -(-len(judged[lot.name]) // 2), rng_of(seed, f"compare-{lot.name}"))
    ]


def _of_lot(lot: Lot, most: int, rng: np.random.Generator) -> Iterator[Comparison]:
    """The parts stand in a ring, each shown beside itself and beside the next one; in a second round each part with its
    second photo, and so on. In a whole ring each photo is shown as often under one label as under the other: no
    photo by itself tells the label."""
    units = [unit for unit in (_good(lot.units[i], rng) for i in rng.permutation(len(lot.units))) if unit]
    same = {name: fellow for unit in units for name, fellow in _fellows(unit).items()}
    for turn in range(max(map(len, units), default=0)):
        ring = [unit[turn] for unit in units if turn < len(unit)][: max(most, 2)]
        if most <= 0 or len(ring) < 2:
            return
        for raw, after in zip(ring[:most], ring[1:] + ring[:1], strict=False):
            yield Comparison(lot=lot.name, raw=raw, same=same[raw.photo.name], other=same[after.photo.name])
        most -= len(ring)


def _good(unit: Sequence[Copy], rng: np.random.Generator) -> list[Copy]:
    """The good photos of a unit in random order, the same picture once."""
    good = list({copy.facts.sha256: copy for copy in unit if copy.photo.label == GOOD}.values())
    return [good[i] for i in rng.permutation(len(good))]


def _fellows(unit: Sequence[Copy]) -> Mapping[str, Copy]:
    """For each photo another one of its part; itself where there is no other."""
    parts: dict[str, list[Copy]] = defaultdict(list)  # photos that look the same may be of two
    for copy in unit:
        parts[copy.photo.part].append(copy)
    return {
        one.photo.name: fellow
        for photos in parts.values()
        for one, fellow in zip(photos, photos[1:] + photos[:1], strict=True)
    }


def comparison_records(comparisons: Sequence[Comparison], processed_view: str) -> Iterator[Record]:
    """Two records of each comparison, with what is known of the two photos in words."""
    for one in comparisons:
        known = "one photo" if one.same is one.raw else "two photos of one part"
        yield _record(one, one.same, "same_part", known, processed_view)
        yield _record(one, one.other, "different_part", "two parts", processed_view)


def _record(comparison: Comparison, query: Copy, label: str, words: str, processed_view: str) -> Record:
    photo = comparison.raw.photo
    return Record(
        id=f"{photo.id}-{Task.COMPARE_VIEWS}-{label}",
        task=Task.COMPARE_VIEWS,
        images=(comparison.raw.shown(Role.REFERENCE, RAW), query.shown(Role.QUERY, processed_view)),
        answer=f"{label}: {words}",
        label=label,
        group=comparison.lot,
        split=photo.split,
        meta=photo.said,
    )
