"""Find images that are copies of one image, changed a little.

A copy may be brighter, turned, mirrored, shifted, cropped or saved again. bench/leaks.py measures
what is found, and how often different images are taken for copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vlmbench.data.images import ImageFacts
from vlmbench.data.likeness.align import compare
from vlmbench.data.likeness.candidates import Candidates, Indices, Search
from vlmbench.data.likeness.detail import (
    INVERSE,
    ORIENTATIONS,
    Details,
    Floats,
    details_of,
    orient,
)

# The limits of a copy: bench/results/leaks.json has the figures on both of their ends.
WHOLE = 0.99  # correlation after alignment
OWN = 0.7  # the same for what other images of the data do not explain
NEAR_DUPLICATE = 0.5  # largest distance of an error
SUSPECT = 1.0  # largest distance that is shown as perhaps a copy
MIN_DETAIL = 1.0  # grey levels: a plainer image has nothing but noise to compare
MIN_PROGRESS = 1000  # images from which a progress bar is shown

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How alike two images are: positions `first` < `second`, after alignment.

    `whole` and `own` are correlations, see `Correlations`. The second image looks like the first in
    the orientation `orientation`, in words.
    """

    first: int
    second: int
    whole: float
    own: float
    orientation: str

    @property
    def distance(self) -> float:
        """Return 0 for the same pixels, and 1 at the limits WHOLE and OWN of a copy."""
        return max((1 - self.whole) / (1 - WHOLE), (1 - self.own) / (1 - OWN))

    @property
    def is_near_duplicate(self) -> bool:
        return self.distance <= NEAR_DUPLICATE

    @property
    def is_suspect(self) -> bool:
        return NEAR_DUPLICATE < self.distance <= SUSPECT


def near_duplicates(facts: Sequence[ImageFacts]) -> list[Pair]:
    """Return the sorted pairs (i < j) of positions whose files differ, but not the image."""
    return sorted((pair.first, pair.second) for pair in likenesses(facts) if pair.is_near_duplicate)


def likenesses(
    facts: Sequence[ImageFacts],
    *,
    apart: NDArray[np.integer] | None = None,
    features: NDArray[np.floating] | None = None,
) -> list[Likeness]:
    """Return the pairs of each image with the images that may be its copies, the nearest first.

    `apart` (N,): only pairs with different values of `apart` are compared. `features` (N, numbers)
    of a vision tower, if there are any, suggest further pairs. The same file, and images without
    detail, are compared with nothing.
    """
    if len(facts) < 2:
        return []
    thumbnails = np.stack([fact.thumbnail for fact in facts])
    details = details_of(thumbnails)

    kept = np.flatnonzero(_is_comparable(facts, details, apart))
    if kept.size < 2:
        return []
    images = details.images[kept]
    groups = _files(facts)[kept] if apart is None else apart[kept].astype(np.int64)
    search = Search(thumbnails[kept], images, None if features is None else features[kept])

    queries = _queries(groups)
    progress = tqdm(
        search.candidates(queries, groups),
        desc="compare images",
        total=len(queries),
        unit="image",
        disable=len(queries) < MIN_PROGRESS,
    )
    found: dict[Pair, Likeness] = {}
    for candidates in progress:
        for likeness in _compare(candidates, images, kept):
            pair = likeness.first, likeness.second
            is_same_file = facts[pair[0]].sha256 == facts[pair[1]].sha256
            is_nearer = pair not in found or likeness.distance < found[pair].distance
            if is_nearer and not is_same_file:
                found[pair] = likeness

    return sorted(found.values(), key=lambda one: (one.distance, one.first, one.second))


def distance(a: ImageFacts, b: ImageFacts) -> tuple[int, float]:
    """Return how much two images differ: bits of the perceptual hash, then grey levels.

    The grey levels are the mean absolute difference of the thumbnails.
    """
    difference = a.thumbnail.astype(np.int16) - b.thumbnail.astype(np.int16)
    return (a.phash ^ b.phash).bit_count(), float(np.abs(difference).mean())


def _compare(
    candidates: Candidates, images: NDArray[np.float16], positions: Indices
) -> Iterator[Likeness]:
    """Yield the likeness of a query and each candidate. `positions` are those of the images."""
    template = images[candidates.query].astype(np.float32)
    result = compare(
        template,
        _turned(images, candidates.images, candidates.orientations),
        _turned(images, candidates.controls, candidates.control_orientations),
    )

    first = int(positions[candidates.query])
    for row, number in enumerate(result.numbers):
        second = int(positions[candidates.images[number]])
        orientation = int(candidates.orientations[number])
        turn = orientation if first < second else INVERSE[orientation]
        yield Likeness(
            first=min(first, second),
            second=max(first, second),
            whole=float(result.whole[row]),
            own=float(result.own[row]),
            orientation=ORIENTATIONS[turn],
        )


def _turned(images: NDArray[np.float16], indices: Indices, orientations: Indices) -> Floats:
    """Return the images at `indices`, each in its orientation, (K, edge, edge)."""
    turned = np.empty((len(indices), *images.shape[1:]), np.float32)
    for number, (index, orientation) in enumerate(zip(indices, orientations, strict=True)):
        turned[number] = orient(images[index], orientation)

    return turned


def _is_comparable(
    facts: Sequence[ImageFacts], details: Details, apart: NDArray[np.integer] | None
) -> NDArray[np.bool_]:
    """Return whether each image has detail, and is the first with its file and value of `apart`."""
    seen: set[tuple[str, int]] = set()
    is_first = np.zeros(len(facts), dtype=bool)
    for position, fact in enumerate(facts):
        key = fact.sha256, 0 if apart is None else int(apart[position])
        is_first[position] = key not in seen
        seen.add(key)

    return is_first & (details.strength >= MIN_DETAIL)


def _files(facts: Sequence[ImageFacts]) -> Indices:
    """Return a number for each file (N,): equal files have equal numbers."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(fact.sha256, len(numbers)) for fact in facts])


def _queries(groups: Indices) -> Indices:
    """Return the positions outside of the largest group: each pair of groups has one of them."""
    values, counts = np.unique(groups, return_counts=True)
    return np.flatnonzero(groups != values[counts.argmax()])
