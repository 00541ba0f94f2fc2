"""Keep images that look the same in one split: data.group_alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vlmbench.data.images import ImageFacts
from vlmbench.data.manifest import Hashes, Manifest, SplitIndices
from vlmbench.data.near_duplicates import near_duplicates
from vlmbench.data.nearest import NearImages, near_images
from vlmbench.data.splits import split_records
from vlmbench.types import Fold, Split

MAX_ROUNDS = 5  # of splitting and looking for look-alikes that a wide search missed


def split_alike(
    manifest: Manifest,
    shares: Mapping[Split, float],
    facts: Mapping[int, ImageFacts],
    *,
    seed: int,
    cache_dir: Path,
    fold: Fold | None = None,
) -> tuple[SplitIndices, list[NearImages], Hashes]:
    """Return the split of every record, the nearest images of two splits, and the images (N, 2).

    Images that look the same, or whose files are the same, have one hash among these images. So
    their records form one split component. Raise UserError as `split_records` does.
    """
    images = _join_images(manifest.images, _alike_pairs(manifest, facts))

    for _ in range(MAX_ROUNDS):
        splits = split_records(manifest, shares, seed=seed, images=images, fold=fold)
        near = near_images(manifest, splits, facts, cache_dir=cache_dir)
        pairs = [pair.images for pair in near if pair.likeness.is_near_duplicate]
        joined = _join_images(images, _renamed(pairs, manifest.images, images))
        if np.array_equal(joined, images):
            break
        images = joined

    return splits, near, images


def is_cured_by_grouping(leaks: Iterable[str]) -> bool:
    """Return whether some leaks, in words, are of images that split_alike keeps together."""
    return any("look the same" in leak or "image content" in leak for leak in leaks)


def _alike_pairs(manifest: Manifest, facts: Mapping[int, ImageFacts]) -> list[tuple[int, int]]:
    """Return the pairs of image hashes whose images look the same or are the same file."""
    names = np.unique(manifest.images).tolist()
    known = [facts[name] for name in names]
    pairs = [(names[i], names[j]) for i, j in near_duplicates(known)]

    first_of: dict[str, int] = {}
    for name, fact in zip(names, known, strict=True):
        pairs.append((first_of.setdefault(fact.sha256, name), name))
    return pairs


def _renamed(pairs: Iterable[tuple[int, int]], old: Hashes, new: Hashes) -> list[tuple[int, int]]:
    """Return the pairs of old hashes in their new form."""
    new_of = dict(zip(old.ravel().tolist(), new.ravel().tolist(), strict=True))
    return [(new_of[first], new_of[second]) for first, second in pairs]


def _join_images(images: Hashes, pairs: Iterable[tuple[int, int]]) -> Hashes:
    """Return the hashes with the smallest hash in place of each one that `pairs` joins to it."""
    names, positions = np.unique(images, return_inverse=True)
    index = {name: i for i, name in enumerate(names.tolist())}
    links = np.array([(index[a], index[b]) for a, b in pairs], dtype=np.intp).reshape(-1, 2)
    ones = np.ones(len(links), dtype=np.int8)
    graph = coo_array((ones, (links[:, 0], links[:, 1])), shape=(len(names), len(names)))
    _, labels = connected_components(graph, directed=False)

    smallest = np.full(labels.max() + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(smallest, labels, names)
    joined: Hashes = smallest[labels][positions].reshape(images.shape)
    return joined
