"""Which pictures look the same: near-duplicates, by perceptual hash and thumbnail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.pictures import PictureFacts

PHASH_BITS = 3  # perceptual hashes of near-duplicates differ in at most this many of 64 bits ...
THUMBNAIL_DIFFERENCE = 1.5  # ... and their grey thumbnails by at most this much on average (0 to 255)
BANDS = 4  # of 16 bits: hashes that differ in at most 3 bits have one of them in common


def near_duplicates(facts: Sequence[PictureFacts], *, apart: NDArray[np.int8] | None = None) -> list[tuple[int, int]]:
    """The pairs (i < j) of positions whose files differ but whose pictures look the same, in order.

    `apart` (N,): only pairs whose values differ there.
    """
    hashes = np.array([one.phash for one in facts], dtype=np.uint64)
    found: set[tuple[int, int]] = set()
    for band in range(BANDS):
        values = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(values[order].astype(np.int64)) != 0])
        for bucket in np.split(order, starts[1:]):
            for position, one in enumerate(bucket[:-1]):
                others = bucket[position + 1 :]
                near = np.bitwise_count(hashes[others] ^ hashes[one]) <= PHASH_BITS
                if apart is not None:
                    near &= apart[others] != apart[one]
                for other in others[near]:
                    if facts[one].sha256 != facts[other].sha256 and thumbnails_alike(facts[one], facts[other]):
                        found.add((int(min(one, other)), int(max(one, other))))
    return sorted(found)


def thumbnails_alike(one: PictureFacts, other: PictureFacts) -> bool:
    """Whether the grey thumbnails are within the noise of saving a picture again."""
    return thumbnail_difference(one, other) <= THUMBNAIL_DIFFERENCE


def thumbnail_difference(one: PictureFacts, other: PictureFacts) -> float:
    """Mean absolute difference of the grey thumbnails, 0 to 255."""
    return float(np.abs(one.thumbnail.astype(np.int16) - other.thumbnail.astype(np.int16)).mean())


def distance(one: PictureFacts, other: PictureFacts) -> tuple[int, float]:
    """How unlike two pictures are: bits of the perceptual hash that differ, then the thumbnails' difference."""
    return (one.phash ^ other.phash).bit_count(), thumbnail_difference(one, other)
