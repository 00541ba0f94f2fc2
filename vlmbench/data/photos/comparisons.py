"""Make comparison records of photos.

Each record shows a raw photo beside a processed one. The second photo shows the same part, or
another part of the lot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlmbench.data.generated.specimens import rng_of
from vlmbench.data.photos.lots import Lot
from vlmbench.data.photos.pairs import RAW, Pair
from vlmbench.data.photos.photo import GOOD, PhotoCopy
from vlmbench.types import Record, Role, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoComparison:
    """A photo, shown raw, and the two photos that are shown beside it, processed.

    `same` shows the same part, `different` shows another part.
    """

    lot: str
    raw: PhotoCopy
    same: PhotoCopy
    different: PhotoCopy


def make_comparisons(
    lots: Sequence[Lot], pairs: Sequence[Pair], *, seed: int
) -> list[PhotoComparison]:
    """Return the comparisons of all lots: for each lot half as many as its queries, rounded up.

    Each comparison gives two records. Only good photos are used, so the defect does not give the
    part away. A lot whose good photos all show one part has no comparisons.
    """
    queries: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        queries[pair.lot].add(pair.query.photo.name)

    comparisons: list[PhotoComparison] = []
    for lot in lots:
        most = (len(queries[lot.name]) + 1) // 2
        rng = rng_of(seed, f"compare-{lot.name}")
        comparisons += _compare_photos(lot, most, rng)

    return comparisons


def _compare_photos(lot: Lot, most: int, rng: np.random.Generator) -> Iterator[PhotoComparison]:
    """Yield at most `most` comparisons of a lot.

    The parts form a ring. Each part is shown beside itself and beside the next part. Each further
    round takes each part's next photo. In a whole ring, each photo occurs equally often with both
    labels, so no photo alone gives the label away.
    """
    good = [_shuffle_good(lot.units[i], rng) for i in rng.permutation(len(lot.units))]
    units = [unit for unit in good if unit]
    partners = {name: partner for unit in units for name, partner in _find_partners(unit).items()}
    num_rounds = max(map(len, units), default=0)

    for turn in range(num_rounds):
        ring = [unit[turn] for unit in units if turn < len(unit)]
        ring = ring[: max(most, 2)]
        if most <= 0 or len(ring) < 2:
            return

        following = ring[1:] + ring[:1]
        for raw, after in zip(ring[:most], following, strict=False):
            same = partners[raw.photo.name]
            different = partners[after.photo.name]
            yield PhotoComparison(
                lot=lot.name,
                raw=raw,
                same=same,
                different=different,
            )

        most -= len(ring)


def _shuffle_good(unit: Sequence[PhotoCopy], rng: np.random.Generator) -> list[PhotoCopy]:
    """Return the good photos of a unit in random order, each image once."""
    good = {copy.facts.sha256: copy for copy in unit if copy.photo.label == GOOD}
    copies = list(good.values())

    return [copies[i] for i in rng.permutation(len(copies))]


def _find_partners(unit: Sequence[PhotoCopy]) -> Mapping[str, PhotoCopy]:
    """Return for each photo another photo of its part, or itself if the part has no other."""
    parts: dict[str, list[PhotoCopy]] = defaultdict(list)
    for copy in unit:  # photos that look the same may show two parts
        parts[copy.photo.part].append(copy)

    partners: dict[str, PhotoCopy] = {}
    for copies in parts.values():
        following = copies[1:] + copies[:1]
        for copy, partner in zip(copies, following, strict=True):
            partners[copy.photo.name] = partner

    return partners


def make_comparison_records(
    comparisons: Sequence[PhotoComparison], processed_view: str
) -> Iterator[Record]:
    """Yield two records for each comparison. The answers say what is known of the two photos."""
    for comparison in comparisons:
        is_same_photo = comparison.same is comparison.raw
        words = "one photo" if is_same_photo else "two photos of one part"
        yield _record(comparison, comparison.same, "same_part", words, processed_view)
        yield _record(
            comparison, comparison.different, "different_part", "two parts", processed_view
        )


def _record(
    comparison: PhotoComparison, query: PhotoCopy, label: str, words: str, processed_view: str
) -> Record:
    photo = comparison.raw.photo
    images = (
        comparison.raw.image_ref(Role.REFERENCE, RAW),
        query.image_ref(Role.QUERY, processed_view),
    )

    return Record(
        id=f"{photo.id}-{Task.COMPARE_VIEWS}-{label}",
        task=Task.COMPARE_VIEWS,
        images=images,
        answer=f"{label}: {words}",
        label=label,
        group=comparison.lot,
        split=photo.split,
        meta=photo.record_meta,
    )
