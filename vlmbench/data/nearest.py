"""The images of different splits that are most alike: near-duplicates, and a few to look at."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.images import ImageFacts
from vlmbench.data.manifest import NO_SPLIT, SPLITS, Hashes, Manifest, SplitIndices, hash_name
from vlmbench.data.near_duplicates import Likeness, likenesses
from vlmbench.system.files import skip_if_forbidden
from vlmbench.types import Split

log = logging.getLogger(__name__)

MAX_SHOWN = 12  # pairs that reports show
REVISION = 1  # raise it when the same images give other likenesses
COLUMNS = ("first", "second", "whole", "own", "orientation")


@dataclass(frozen=True, slots=True, kw_only=True)
class NearImages:
    """Two images of different splits, how alike they are, and where they are.

    `rows` are manifest indices of records that show them, `images` their name hashes.
    """

    rows: tuple[int, int]
    images: tuple[int, int]
    splits: tuple[Split, Split]
    likeness: Likeness


def near_images(
    manifest: Manifest,
    splits: SplitIndices,
    facts: Mapping[int, ImageFacts],
    *,
    cache_dir: Path,
    features: Mapping[int, NDArray[np.floating]] | None = None,
) -> list[NearImages]:
    """Return pairs of images in different splits, the nearest first.

    `facts` must have every image. `features` may map each image to numbers of a vision tower, which
    suggest further pairs. The cache keeps the result.
    """
    images, image_splits, owners = _images_of_splits(manifest, splits)
    facts_of = [facts[image] for image in images.tolist()]
    vectors = None
    if features is not None:
        vectors = np.stack([features[image] for image in images.tolist()])

    key = _key(facts_of, image_splits, vectors)
    cached = cache_dir / "likeness" / f"{key}.npz"
    found = _load(cached, len(images)) if cached.exists() else None
    if found is None:
        found = likenesses(facts_of, apart=image_splits, features=vectors)
        with skip_if_forbidden(cached):
            _save(cached, found)

    return [
        NearImages(
            rows=(int(owners[one.first]), int(owners[one.second])),
            images=(int(images[one.first]), int(images[one.second])),
            splits=(SPLITS[image_splits[one.first]], SPLITS[image_splits[one.second]]),
            likeness=one,
        )
        for one in found
    ]


def describe_near(
    manifest: Manifest, near: Sequence[NearImages], *, most: int | None = MAX_SHOWN
) -> list[dict[str, Any]]:
    """Return the nearest pairs, at most `most` (None: all), ready for JSON.

    `images` are paths relative to the manifest. `distance` is 0 for the same pixels and 1 at the
    limit of a copy.
    """
    return [
        {
            "images": [
                _name(manifest, row, image)
                for row, image in zip(pair.rows, pair.images, strict=True)
            ],
            "splits": [str(split) for split in pair.splits],
            "distance": round(pair.likeness.distance, 3),
            "orientation": pair.likeness.orientation,
            "judgement": _judgement(pair.likeness),
        }
        for pair in near[:most]
    ]


def _judgement(likeness: Likeness) -> str:
    if likeness.is_near_duplicate:
        return "near-duplicate"
    return "perhaps a copy" if likeness.is_suspect else "different images"


def _name(manifest: Manifest, row: int, image: int) -> str:
    names = [manifest.image_name(each.path) for each in manifest[row].images]
    return next(name for name in names if hash_name(name) == image)


def _images_of_splits(
    manifest: Manifest, splits: SplitIndices
) -> tuple[Hashes, SplitIndices, NDArray[np.intp]]:
    """Return each image of each split once: its name hash, its split, its first record."""
    records = np.flatnonzero(splits != NO_SPLIT)
    images = manifest.images[records].ravel()
    owners = np.repeat(records, 2)
    keys = np.stack([images, splits[owners].astype(np.uint64)])
    _, first = np.unique(keys, axis=1, return_index=True)

    return images[first], splits[owners[first]], owners[first]


def _key(
    facts: Sequence[ImageFacts],
    splits: SplitIndices,
    features: NDArray[np.floating] | None,
) -> str:
    """Return a hash of everything that the result depends on."""
    digest = hashlib.sha256(f"{REVISION}".encode())
    for fact in facts:
        digest.update(fact.sha256.encode())
    digest.update(splits.tobytes())
    if features is not None:
        digest.update(features.tobytes())

    return digest.hexdigest()[:32]


def _save(path: Path, found: Sequence[Likeness]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / "likeness.npz"
        np.savez(
            unfinished,
            first=np.array([one.first for one in found], dtype=np.int64),
            second=np.array([one.second for one in found], dtype=np.int64),
            whole=np.array([one.whole for one in found], dtype=np.float64),
            own=np.array([one.own for one in found], dtype=np.float64),
            orientation=np.array([one.orientation for one in found], dtype=str),
        )
        unfinished.replace(path)


def _load(path: Path, number: int) -> list[Likeness] | None:
    """Return the cached pairs of `number` images. Return None for a damaged file: it is removed."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns = [stored[name].tolist() for name in COLUMNS]
        found = [
            Likeness(
                first=int(first),
                second=int(second),
                whole=float(whole),
                own=float(own),
                orientation=str(orientation),
            )
            for first, second, whole, own, orientation in zip(*columns, strict=True)
        ]
        if any(not 0 <= one.first < one.second < number for one in found):
            raise ValueError("it names images that do not exist")
    except PermissionError as error:  # another user's
        log.warning("%s: the cached pairs are not used (%s)", path, error)
        return None
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        log.warning("%s: the cached pairs are damaged (%s); they are found again", path, error)
        path.unlink(missing_ok=True)
        return None

    return found
