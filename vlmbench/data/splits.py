"""Split records into training, validation and test sets without leaks.

Train, validation and test sets are split by part. No part and no image file is in two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vlmbench.data.images import ImageFacts
from vlmbench.data.likeness.detail import ORIENTATIONS
from vlmbench.data.manifest import NO_SPLIT, SPLITS, TASKS, Hashes, Indices, Manifest, SplitIndices
from vlmbench.data.nearest import NearImages
from vlmbench.data.planted import leave_out_planted
from vlmbench.types import Fold, Split, Task, UserError

Components = NDArray[np.int32]  # the number of each record's split component


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Two rows (manifest indices) in different splits, and what they share."""

    first: int
    second: int
    shared: str


def split_records(
    manifest: Manifest,
    shares: Mapping[Split, float],
    *,
    seed: int,
    by_part_only: bool = False,
    images: Hashes | None = None,
    fold: Fold | None = None,
) -> SplitIndices:
    """Return the split of every record (N,), an index into SPLITS.

    Records that share a part or an image form a split component, which is never divided. The order
    in which components fill the splits depends on `seed` and the names alone. So adding a part
    moves few others. A split that the manifest fixes stays.

    With `by_part_only`, splits may share images: for manifests whose parts share one reference.
    `images` (N, 2) replaces the manifest's image hashes: equal hashes stay together. With a `fold`,
    its components test, and `shares` divide the others between training and validation. Planted
    defects that must not measure have NO_SPLIT.
    Raises UserError if a split with a share above 0 has no record, and for folds that cannot be.
    """
    hashes = manifest.images if images is None else images
    components = _find_components(manifest, hashes, by_part_only=by_part_only)
    num_components = components.max() + 1
    fixed = manifest.splits != NO_SPLIT
    is_free = np.ones(num_components, dtype=bool)
    is_free[components[fixed]] = False

    order = _random_order(components, manifest.groups, seed)
    order = order[is_free[order]]
    counts = np.bincount(components[~fixed], minlength=num_components)[order]
    split_of = np.full(num_components, NO_SPLIT, dtype=np.int8)
    tested = np.empty(0, dtype=order.dtype)
    if fold is not None:
        _check_folds(manifest, fold, len(order))
        order, counts, tested = _take_fold(order, counts, fold)
        shares = _shares_without_test(shares)
    split_of[order] = _fill_splits(counts, shares)
    _fill_empty_splits(split_of, order, shares)
    split_of[tested] = SPLITS.index(Split.TEST)

    # Free records of a component with fixed records go with the first fixed one.
    fixed_components = components[fixed]
    fixed_splits = manifest.splits[fixed]
    split_of[fixed_components[::-1]] = fixed_splits[::-1]

    splits = np.where(fixed, manifest.splits, split_of[components]).astype(np.int8)
    _check_splits(manifest, splits, components, shares)
    return leave_out_planted(manifest, splits)


def _check_folds(manifest: Manifest, fold: Fold, num_components: int) -> None:
    """Raise UserError if each component cannot be tested once, in its fold."""
    fixed = np.flatnonzero(manifest.splits != NO_SPLIT)
    if len(fixed):
        raise UserError(
            f"{manifest.location(int(fixed[0]))}: this row and {len(fixed) - 1} others have a "
            f"fixed split, so data.folds={fold.number} cannot test every part; remove the key "
            "split from the rows, or set data.folds=null"
        )
    if fold.number > num_components:
        raise UserError(
            f"{manifest.path}: data.folds={fold.number} needs as many groups of parts without a "
            f"common image, and there are {num_components}; set data.folds={num_components}, add "
            "parts, or allow splits to share images with data.allow_leak=true"
        )


def _take_fold(
    order: Indices, counts: NDArray[np.intp], fold: Fold
) -> tuple[Indices, NDArray[np.intp], Indices]:
    """Return the components that the fold does not test with their counts, and those it tests.

    The folds cut the line from 0 to the number of records into equal pieces. The components that
    follow the fold come first, so that folds differ in their validation sets too.
    """
    middles = np.cumsum(counts) - counts / 2
    fold_of = (middles / counts.sum() * fold.number).astype(np.intp)
    for empty in range(fold.number):
        sizes = np.bincount(fold_of, minlength=fold.number)
        if sizes[empty] == 0:
            fold_of[np.flatnonzero(fold_of == sizes.argmax())[-1]] = empty

    is_tested = fold_of == fold.index
    last = int(np.flatnonzero(is_tested)[-1])
    others = np.roll(np.arange(len(order)), -last - 1)
    others = others[~is_tested[others]]
    return order[others], counts[others], order[is_tested]


def _shares_without_test(shares: Mapping[Split, float]) -> dict[Split, float]:
    rest = shares[Split.TRAIN] + shares[Split.VAL]
    if rest == 0:
        raise UserError(
            "data.folds needs a share of parts that train, and data.split.train is 0; "
            "set 'data.split={train: 0.7, val: 0.1, test: 0.2}'"
        )
    return {
        Split.TRAIN: shares[Split.TRAIN] / rest,
        Split.VAL: shares[Split.VAL] / rest,
        Split.TEST: 0.0,
    }


def _fill_splits(counts: NDArray[np.intp], shares: Mapping[Split, float]) -> SplitIndices:
    """Return the splits of components with `counts` records each, which fill them in order.

    Each component's middle, on the line from 0 to the number of records, decides its split.
    """
    middles = np.cumsum(counts) - counts / 2
    positions = middles / max(counts.sum(), 1)

    edges = np.cumsum([shares[split] for split in SPLITS])
    indices = np.searchsorted(edges, positions, side="right")
    splits: SplitIndices = np.minimum(indices, len(SPLITS) - 1).astype(np.int8)
    return splits


def _fill_empty_splits(splits: SplitIndices, order: Indices, shares: Mapping[Split, float]) -> None:
    """Move a component from the largest split to each empty one, in place.

    With few components a small share may get none.
    """
    for index, split in enumerate(SPLITS):
        counts = np.bincount(splits[splits != NO_SPLIT], minlength=len(SPLITS))
        is_empty = shares[split] > 0 and counts[index] == 0
        if is_empty and counts.max() > 1:
            largest = order[splits[order] == counts.argmax()]
            splits[largest[-1:]] = index


def _find_components(manifest: Manifest, images: Hashes, *, by_part_only: bool) -> Components:
    """Return the number of each record's split component: it shares parts or images. (N,)"""
    if by_part_only:
        _, parts = np.unique(manifest.groups, return_inverse=True)
        return parts.astype(np.int32)
    return _join(manifest.groups, images)


def _join(groups: Hashes, images: Hashes) -> Components:
    """Return the component of each record (N,), from its part (N,) and its images (N, 2).

    The components are those of a graph whose nodes are parts and images, with an edge for each
    image of each record.
    """
    _, parts = np.unique(groups, return_inverse=True)
    _, columns = np.unique(images, return_inverse=True)
    num_parts = int(parts.max()) + 1
    num_nodes = num_parts + int(columns.max()) + 1
    rows = np.repeat(parts, 2)  # a record has two image hashes
    edges = np.ones(len(rows), dtype=np.int8)
    graph = coo_array((edges, (rows, num_parts + columns.ravel())), shape=(num_nodes, num_nodes))

    _, labels = connected_components(graph, directed=False)
    _, components = np.unique(labels[parts], return_inverse=True)
    return components.astype(np.int32)


def component_names(
    manifest: Manifest, facts: Mapping[int, ImageFacts], images: Hashes | None = None
) -> dict[tuple[Task, int], str]:
    """Return (task, hash of a part) -> name of its component, for components of several parts.

    A component is made of parts that share images in records of one task. A file that has several
    names is one image. Such records are not independent, so statistics take them together. Records
    of other tasks may join more parts: these stay in one split, but judgements of them share no
    image. The name is the component's smallest part hash, so it does not depend on the order of the
    rows. `images` (N, 2) replaces the hashes of the files: images with equal hashes are one.
    """
    names: dict[tuple[Task, int], str] = {}
    contents = _contents(manifest, facts) if images is None else images
    for index in np.unique(manifest.tasks).tolist():
        members = np.flatnonzero(manifest.tasks == index)
        all_groups = manifest.groups[members]
        components = _join(all_groups, contents[members])
        groups, first = np.unique(all_groups, return_index=True)
        component_of = components[first]
        sizes = np.bincount(component_of)

        smallest: dict[int, int] = {}
        for group, component in zip(groups.tolist(), component_of.tolist(), strict=True):
            if sizes[component] > 1:
                names[TASKS[index], group] = f"{smallest.setdefault(component, group):016x}"
    return names


def _random_order(components: Components, groups: Hashes, seed: int) -> Indices:
    """Return the components in random order, which `seed` and the smallest group hash decide."""
    largest = np.iinfo(np.uint64).max
    names = np.full(components.max() + 1, largest, dtype=np.uint64)
    np.minimum.at(names, components, groups)

    keys = []
    for name in names.tolist():
        content = name.to_bytes(8, "little")
        keys.append(xxhash.xxh3_64_intdigest(content, seed=seed))
    return np.argsort(np.array(keys, dtype=np.uint64), kind="stable")


def _check_splits(
    manifest: Manifest,
    splits: SplitIndices,
    components: Components,
    shares: Mapping[Split, float],
) -> None:
    for index, split in enumerate(SPLITS):
        is_empty = not (splits == index).any()
        if shares[split] > 0 and is_empty:
            largest = int(np.bincount(components).max())
            raise UserError(
                f"{manifest.path}: no record is left for the {split} split: {largest} of "
                f"{len(manifest)} records share parts or images and must stay together; use "
                "several reference images, change data.split, or allow splits to share images "
                "with data.allow_leak=true"
            )


def find_leaks(
    manifest: Manifest,
    splits: SplitIndices,
    facts: Mapping[int, ImageFacts] | None,
    near: Sequence[NearImages] = (),
) -> list[Leak]:
    """Return the leaks between splits, at most one for each pair of rows, in order.

    A leak is a shared group, a shared image (by path or by content) or a pair of near-duplicates
    among `near`. Records in no split leak nothing. `facts` maps the manifest's 64-bit image hashes
    to the images' facts; with None, images are compared by path only. Raise UserError if an image
    has no facts.
    """
    records = np.flatnonzero(splits != NO_SPLIT)
    images = manifest.images[records].ravel()
    owners = np.repeat(records, 2)
    leaks = _find_shared(manifest.groups[records], splits[records], records, "group")
    leaks += _find_shared(images, splits[owners], owners, "image")

    if facts is not None:
        contents = _contents(manifest, facts)[records].ravel()
        leaks += _find_shared(contents, splits[owners], owners, "image content")

    leaks += [_near_leak(pair) for pair in near if pair.likeness.is_near_duplicate]

    # The first of several leaks between two rows stays.
    unique = {(leak.first, leak.second): leak for leak in reversed(leaks)}
    return sorted(unique.values(), key=lambda leak: (leak.first, leak.second))


def _contents(manifest: Manifest, facts: Mapping[int, ImageFacts]) -> Hashes:
    """Return 64 bits of the hash of each record's image files (N, 2).

    Raise UserError if an image has no facts: a check must not pass over what it does not know.
    """
    names, positions = np.unique(manifest.images, return_inverse=True)
    unknown = [name for name in names.tolist() if name not in facts]
    if unknown:
        row = int(np.argwhere(manifest.images == unknown[0])[0, 0])
        raise UserError(
            f"{manifest.location(row)}: an image of this row was not read, so leaks cannot be "
            "found; start the command again with an empty cache_dir"
        )

    hashes = [int(facts[name].sha256[:16], 16) for name in names.tolist()]
    contents: Hashes = np.array(hashes, dtype=np.uint64)[positions]
    return contents.reshape(manifest.images.shape)


def _find_shared(keys: Hashes, splits: SplitIndices, owners: Indices, name: str) -> list[Leak]:
    """Return a leak for every key that occurs in two splits. `owners` are the keys' records."""
    order = np.lexsort((splits, keys))
    keys = keys[order]
    splits = splits[order]
    owners = owners[order]
    same_key = keys[1:] == keys[:-1]
    other_split = splits[1:] != splits[:-1]

    leaks = []
    for i in np.flatnonzero(same_key & other_split):
        first, second = sorted(owners[i : i + 2].tolist())
        leaks.append(Leak(first=first, second=second, shared=f"the same {name}"))
    return leaks


def _near_leak(pair: NearImages) -> Leak:
    first, second = sorted(pair.rows)
    orientation = pair.likeness.orientation
    turned = "" if orientation == ORIENTATIONS[0] else f" (the second image is {orientation})"
    return Leak(first=first, second=second, shared=f"images that look the same{turned}")


def leak_messages(manifest: Manifest, leaks: Sequence[Leak], splits: SplitIndices) -> list[str]:
    """Return a sentence for each leak that names the two rows."""

    def name_row(index: int) -> str:
        record = manifest[index]
        split = SPLITS[splits[index]]
        return f"{manifest.location(index)} (id {record.id!r}, {split})"

    return [
        f"{name_row(leak.first)} and {name_row(leak.second)} have {leak.shared}" for leak in leaks
    ]
