"""Find images that look the same, by perceptual hash and thumbnail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.images import ImageFacts

# Limits for near-duplicates
PHASH_BITS = 3  # different bits of the 64 of the perceptual hashes
THUMBNAIL_DIFFERENCE = 1.5  # mean difference of the grey thumbnails, 0 to 255
BANDS = 4  # two hashes with at most 3 different bits have an equal band of four
BAND_BITS = 16

Hashes = NDArray[np.uint64]
Pair = tuple[int, int]


def near_duplicates(
    facts: Sequence[ImageFacts],
    *,
    apart: NDArray[np.int8] | None = None,
) -> list[Pair]:
    """Return the sorted pairs (i < j) of positions whose files differ but whose images look alike.

    `apart` (N,): only pairs with different values of `apart` are returned.
    """
    hashes = np.array([fact.phash for fact in facts], dtype=np.uint64)
    pairs: set[Pair] = set()
    for pair in _similar_hashes(hashes, apart):
        a, b = (facts[position] for position in pair)
        if a.sha256 != b.sha256 and thumbnails_alike(a, b):
            pairs.add(pair)

    return sorted(pairs)


def thumbnails_alike(a: ImageFacts, b: ImageFacts) -> bool:
    """Return whether the thumbnails differ by no more than the noise of saving an image again."""
    return thumbnail_difference(a, b) <= THUMBNAIL_DIFFERENCE


def thumbnail_difference(a: ImageFacts, b: ImageFacts) -> float:
    """Return the mean absolute difference of the grey thumbnails, 0 to 255."""
    difference = a.thumbnail.astype(np.int16) - b.thumbnail.astype(np.int16)
    return float(np.abs(difference).mean())


def distance(a: ImageFacts, b: ImageFacts) -> tuple[int, float]:
    """Return the distance of two images: different hash bits, then the thumbnails' difference."""
    return (a.phash ^ b.phash).bit_count(), thumbnail_difference(a, b)


def _similar_hashes(hashes: Hashes, apart: NDArray[np.int8] | None) -> Iterator[Pair]:
    """Yield the pairs (i < j) whose hashes differ in at most PHASH_BITS bits. A pair may repeat.

    Only hashes that share a band are compared.
    """
    for band in range(BANDS):
        for bucket in _buckets(hashes, band):
            for position, first in enumerate(bucket[:-1]):
                others = bucket[position + 1 :]
                different_bits = hashes[others] ^ hashes[first]
                near = np.bitwise_count(different_bits) <= PHASH_BITS
                if apart is not None:
                    near &= apart[others] != apart[first]

                for second in others[near].tolist():
                    yield int(first), second


def _buckets(hashes: Hashes, band: int) -> list[NDArray[np.int64]]:
    """Return the positions of the hashes, grouped by the value of a band, each group in order."""
    shift = np.uint64(BAND_BITS * band)
    mask = np.uint64(2**BAND_BITS - 1)
    values = (hashes >> shift) & mask

    order = np.argsort(values, kind="stable")
    in_order = values[order]
    starts = np.flatnonzero(in_order[1:] != in_order[:-1]) + 1
    return np.split(order, starts)
