"""Sides of the experiment, without leaks: what a model saw in training is never asked of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vlmbench.data.looks import near_duplicates
from vlmbench.data.manifest import NO_SPLIT, SPLITS, Manifest
from vlmbench.data.pictures import PictureFacts
from vlmbench.types import Split, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Two rows (manifest indices) on different sides that share something."""

    first: int
    second: int
    what: str


def split_records(
    manifest: Manifest, shares: Mapping[Split, float], *, seed: int, by_group_only: bool = False
) -> NDArray[np.int8]:
    """The side of every record (N,), an index into SPLITS.

    Records that share a group or a picture hang together and go to one side, whole; sides are filled in an order that
    depends on `seed` and the names alone, so adding a part moves no other far. A side fixed by the manifest stays.
    `by_group_only` lets pictures be shared between sides: for manifests where one golden reference serves all.
    Raises UserError when a side that should have records is empty.
    """
    parts = _components(manifest, by_group_only=by_group_only)
    sides = np.full(parts.max() + 1, NO_SPLIT, dtype=np.int8)
    fixed = manifest.splits != NO_SPLIT
    free = np.ones(len(sides), dtype=bool)
    free[parts[fixed]] = False
    order = _order(parts, manifest.groups, seed)
    order = order[free[order]]
    counts = np.bincount(parts[~fixed], minlength=len(sides))[order]
    # The middle of each part on the line from 0 to the number of records: which share it lies in.
    middles = (np.cumsum(counts) - counts / 2) / max(counts.sum(), 1)
    edges = np.cumsum([shares[split] for split in SPLITS])
    sides[order] = np.minimum(np.searchsorted(edges, middles, side="right"), len(SPLITS) - 1)
    _fill_empty_sides(sides, order, shares)
    # A record without a side of its own, in a part where others have theirs, goes with the first of them.
    sides[parts[fixed][::-1]] = manifest.splits[fixed][::-1]
    result = np.where(fixed, manifest.splits, sides[parts]).astype(np.int8)
    _check_sides(manifest, result, parts, shares)
    return result


def _fill_empty_sides(sides: NDArray[np.int8], order: NDArray[np.int64], shares: Mapping[Split, float]) -> None:
    """With few parts a small share may catch none: give it one of the side that has the most."""
    for index, split in enumerate(SPLITS):
        counts = np.bincount(sides[sides != NO_SPLIT], minlength=len(SPLITS))
        if shares[split] > 0 and counts[index] == 0 and counts.max() > 1:
            rich = order[sides[order] == counts.argmax()]
            sides[rich[-1:]] = index


def _components(manifest: Manifest, *, by_group_only: bool) -> NDArray[np.int32]:
    """For every record the number of the part that it hangs together with, through groups and pictures."""
    groups = np.unique(manifest.groups, return_inverse=True)[1]
    if by_group_only:
        return groups.astype(np.int32)
    pictures = np.unique(manifest.pictures, return_inverse=True)[1].reshape(-1, 2)
    num_groups = int(groups.max()) + 1
    rows = np.repeat(groups, 2)
    columns = num_groups + pictures.ravel()
    nodes = num_groups + int(pictures.max()) + 1
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(nodes, nodes))
    labels: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return np.unique(labels[groups], return_inverse=True)[1].astype(np.int32)


def _order(parts: NDArray[np.int32], groups: NDArray[np.uint64], seed: int) -> NDArray[np.int64]:
    """The parts in random order, each placed by the smallest of its groups' hashes and `seed`."""
    names = np.full(parts.max() + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(names, parts, groups)
    keys = [xxhash.xxh3_64_intdigest(int(name).to_bytes(8, "little"), seed=seed) for name in names]
    return np.argsort(np.array(keys, dtype=np.uint64), kind="stable")


def _check_sides(
    manifest: Manifest, sides: NDArray[np.int8], parts: NDArray[np.int32], shares: Mapping[Split, float]
) -> None:
    for index, split in enumerate(SPLITS):
        if shares[split] > 0 and not (sides == index).any():
            largest = int(np.bincount(parts).max())
            raise UserError(
                f"{manifest.path}: no record is left for the {split} side: {largest} of {len(manifest)} records hang "
                "together by shared groups and pictures; use several reference pictures, change data.split, or let "
                "pictures be shared with data.allow_leak=true"
            )


def find_leaks(manifest: Manifest, sides: NDArray[np.int8], facts: Mapping[int, PictureFacts]) -> list[Leak]:
    """What stands on more than one side: groups, pictures (by content) and near-duplicates (by looks), one leak each.

    `facts` maps the manifest's 64-bit picture hashes to what was read from the files; pictures without facts are
    compared by name only.
    """
    leaks = _shared(manifest.groups, sides, np.arange(len(manifest)), "group")
    flat, owners = manifest.pictures.ravel(), np.repeat(np.arange(len(manifest)), 2)
    leaks += _shared(flat, sides[owners], owners, "picture")
    if facts:
        known = np.array([picture in facts for picture in flat.tolist()])
        flat, owners = flat[known], owners[known]
        contents = np.array([int(facts[picture].sha256[:16], 16) for picture in flat.tolist()], dtype=np.uint64)
        leaks += _shared(contents, sides[owners], owners, "picture content")
        leaks += _near_duplicates(flat, sides[owners], owners, facts)
    unique = {(leak.first, leak.second): leak for leak in reversed(leaks)}
    return sorted(unique.values(), key=lambda leak: (leak.first, leak.second))


def _shared(keys: NDArray[np.uint64], sides: NDArray[np.int8], owners: NDArray[np.int64], what: str) -> list[Leak]:
    """One leak for every key that occurs on two sides."""
    order = np.lexsort((sides, keys))
    same = (keys[order][1:] == keys[order][:-1]) & (sides[order][1:] != sides[order][:-1])
    pairs = ((int(owners[order[i]]), int(owners[order[i + 1]])) for i in np.flatnonzero(same))
    return [Leak(first=min(pair), second=max(pair), what=f"the same {what}") for pair in pairs]


def _near_duplicates(
    pictures: NDArray[np.uint64], sides: NDArray[np.int8], owners: NDArray[np.int64], facts: Mapping[int, PictureFacts]
) -> list[Leak]:
    """Pictures on two sides that look the same."""
    first = np.unique(np.stack([pictures, sides.astype(np.uint64)]), axis=1, return_index=True)[1]
    pictures, sides, owners = pictures[first], sides[first], owners[first]
    rows = (
        sorted((int(owners[one]), int(owners[other])))
        for one, other in near_duplicates([facts[picture] for picture in pictures.tolist()], apart=sides)
    )
    return [Leak(first=row, second=other, what="pictures that look the same") for row, other in rows]


def leak_messages(manifest: Manifest, leaks: Sequence[Leak], sides: NDArray[np.int8]) -> list[str]:
    """A sentence for each leak that names the two rows."""
    return [
        f"{manifest.place(leak.first)} (id {manifest[leak.first].id!r}, {SPLITS[sides[leak.first]]}) and "
        f"{manifest.place(leak.second)} (id {manifest[leak.second].id!r}, {SPLITS[sides[leak.second]]}) "
        f"have {leak.what}"
        for leak in leaks
    ]
