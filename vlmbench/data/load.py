"""Load a run's data: split the manifest's records, read every image once, and check for leaks."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vlmbench.data.alike import is_cured_by_grouping, split_alike
from vlmbench.data.image_modes import Conversion
from vlmbench.data.images import ImageFacts, file_version, image_facts
from vlmbench.data.invalid_rows import MAX_ERRORS
from vlmbench.data.manifest import Hashes, Manifest, hash_name
from vlmbench.data.nearest import NearImages, near_images
from vlmbench.data.paths import find_path
from vlmbench.data.prepared import read_invalid_rows
from vlmbench.data.records import Subset, records_of_split
from vlmbench.data.splits import component_names, find_leaks, leak_messages, split_records
from vlmbench.data.unchanged import ReadFiles
from vlmbench.system import threads
from vlmbench.system.files import explain_disk_errors, skip_if_forbidden
from vlmbench.system.threads import map_ahead
from vlmbench.types import FileVersion, Fold, Record, Split, Task, UserError

log = logging.getLogger(__name__)

MAX_LEAKS = 10  # leaks named in one message
FACTS_REVISION = 3  # raise it when other facts are read, or stored in another format
# Name hash of an image -> its name, and its file's version
Versions = dict[int, tuple[str, FileVersion | None]]
# Errors of a damaged file in NumPy's format
DAMAGED = (
    *(OSError, ValueError, TypeError, KeyError, EOFError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)
FACT_NAMES = ("keys", "sha256", "sizes", "phash", "thumbnails", "modes", "conversions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The records of a run by split, and the facts of their images.

    `facts` maps an image's 64-bit name hash to its facts. `leaks` has a sentence for each leak that
    was allowed. `near` are the pairs of images in different splits that are most alike.
    `components` maps a task and a part's 64-bit name hash to the name of the part's component, for
    parts that share images with others in records of that task. `is_fold`: the test split is a fold
    of a cross-validation.
    """

    manifest: Manifest
    train: Subset
    val: Subset
    test: Subset
    facts: Mapping[int, ImageFacts]
    leaks: tuple[str, ...]
    near: tuple[NearImages, ...]
    warnings: tuple[str, ...]
    components: Mapping[tuple[Task, int], str] = field(default_factory=dict)
    is_fold: bool = False

    @property
    def files(self) -> ReadFiles:
        """Return what checks that the run reads the files that it hashed."""
        return ReadFiles(self.manifest, self.facts)

    def component(self, task: Task, group: str) -> str:
        """Return the name of a part's component; "" if its records share no image with others."""
        return self.components.get((task, hash_name(group)), "")

    def sizes(self, record: Record) -> list[tuple[int, int]]:
        """Return (width, height) of each image, or tile, of one of the manifest's records."""
        return [
            self.size(image.path) if image.box is None else image.box[2:] for image in record.images
        ]

    def size(self, path: Path) -> tuple[int, int]:
        """Return (width, height) of one of the manifest's images."""
        facts = self.facts[hash_name(self.manifest.image_name(path))]
        return facts.width, facts.height


def load_data(
    manifest: Manifest,
    shares: Mapping[Split, float],
    *,
    split_seed: int,
    allow_leak: bool,
    cache_dir: Path,
    group_alike: bool = False,
    fold: Fold | None = None,
) -> Data:
    """Return the records by split, after every image was read and checked for leaks.

    Raises UserError that names unreadable images, the two rows of each leak, or an empty split.
    With `allow_leak`, leaks are warnings, and splits may share images. With `group_alike`, records
    whose images look the same stay in one split. A `fold` decides the test split, see
    `split_records`.
    """
    facts = read_images(manifest, cache_dir)
    _check_declared_hashes(manifest, facts)

    images: Hashes | None = None
    if group_alike and not allow_leak:
        splits, near, images = split_alike(
            manifest, shares, facts, seed=split_seed, cache_dir=cache_dir, fold=fold
        )
    else:
        splits = split_records(
            manifest, shares, seed=split_seed, by_part_only=allow_leak, fold=fold
        )
        near = near_images(manifest, splits, facts, cache_dir=cache_dir)

    leaks = leak_messages(manifest, find_leaks(manifest, splits, facts, near), splits)
    if leaks and not allow_leak:
        raise _leak_error(leaks, group_alike=group_alike)

    return Data(
        manifest=manifest,
        train=records_of_split(manifest, splits, Split.TRAIN),
        val=records_of_split(manifest, splits, Split.VAL),
        test=records_of_split(manifest, splits, Split.TEST),
        facts=facts,
        leaks=tuple(leaks),
        near=tuple(near),
        warnings=tuple(_warnings(manifest, leaks)),
        components={} if allow_leak else component_names(manifest, facts, images),
        is_fold=fold is not None,
    )


def data_hash(manifest: Manifest, facts: Mapping[int, ImageFacts]) -> str:
    """Return the SHA-256 of the manifest's bytes and of every image that it names."""
    digest = manifest.digest()
    for name, image in sorted(facts.items()):
        digest.update(f"{name:016x} {image.sha256}\n".encode())

    return str(digest.hexdigest())


def read_images(manifest: Manifest, cache_dir: Path) -> dict[int, ImageFacts]:
    """Return the facts of every image in the manifest, from the cache if no file has changed.

    Raises UserError that names each unusable image and its row, up to MAX_ERRORS.
    """
    first_rows: dict[str, int] = {}
    for index, record in enumerate(manifest):
        for image in record.images:
            first_rows.setdefault(manifest.image_name(image.path), index)

    versions = _file_versions(manifest, first_rows)
    cached = cache_dir / "images" / f"{_files_hash(manifest, versions)}.npz"
    facts = _load_facts(cached, versions) if cached.exists() else None
    if facts is None:
        facts = _read_facts(manifest, first_rows)
        with explain_disk_errors(str(cached)), skip_if_forbidden(cached):
            _save_facts(cached, facts)
    return facts


def _leak_error(leaks: Sequence[str], *, group_alike: bool) -> UserError:
    lines = list(leaks[:MAX_LEAKS])
    if len(leaks) > MAX_LEAKS:
        lines.append(f"... and {len(leaks) - MAX_LEAKS} more")

    if not group_alike and is_cured_by_grouping(leaks):
        lines.append(
            "copies and images that look the same can stay in one split; set data.group_alike=true"
        )

    lines.append(
        "the test set must not hold what the model was trained on: give these rows one group, fix "
        "their split, or set data.allow_leak=true to make this a warning that the report repeats"
    )
    return UserError("\n".join(lines))


def _warnings(manifest: Manifest, leaks: Sequence[str]) -> list[str]:
    warnings = list(manifest.warnings)
    left_out = read_invalid_rows(manifest.path)
    if left_out:
        warnings.append(left_out.sentence)
    if leaks:
        warnings.append(
            f"{len(leaks)} leaks between the splits were allowed (data.allow_leak): {leaks[0]}"
        )
    return warnings


def _read_facts(manifest: Manifest, first_rows: Mapping[str, int]) -> dict[int, ImageFacts]:
    """Read the images. `first_rows` maps an image's name to the index of its first record."""
    facts: dict[int, ImageFacts] = {}
    errors: list[str] = []
    found = map_ahead(partial(_read_image, manifest.folder), first_rows, ahead=threads.count())
    rows = tqdm(first_rows.items(), desc="read images", unit="image", disable=len(first_rows) < 100)
    for (name, index), fact in zip(rows, found, strict=True):
        if isinstance(fact, ImageFacts):
            facts[hash_name(name)] = fact
            continue
        errors.append(f"{manifest.location(index)}: {fact}")
        if len(errors) >= MAX_ERRORS:
            break

    if errors:
        raise UserError("\n".join(errors))
    return facts


def _read_image(folder: Path, name: str) -> ImageFacts | UserError:
    """Return the facts of an image, or the error that says why it has none."""
    try:
        return image_facts(find_path(folder, name), inside=folder)
    except UserError as error:
        return error


def _check_declared_hashes(manifest: Manifest, facts: Mapping[int, ImageFacts]) -> None:
    """Raise UserError for an image whose SHA-256 is not the one in its row."""
    for index, record in enumerate(manifest):
        for image in record.images:
            name = manifest.image_name(image.path)
            actual = facts[hash_name(name)].sha256
            if image.sha256 and image.sha256 != actual:
                raise UserError(
                    f"{manifest.location(index)}: {name} has sha256 {actual[:12]}..., but the row "
                    f"says {image.sha256[:12]}...; the image was changed after the manifest was "
                    "written, restore the image or fix the row"
                )


def _file_versions(manifest: Manifest, names: Iterable[str]) -> Versions:
    """Return the name of each image and its file's version, None without a file, by name hash."""
    return {
        hash_name(name): (name, file_version(find_path(manifest.folder, name), None))
        for name in names
    }


def _files_hash(manifest: Manifest, versions: Versions) -> str:
    """Return a hash that changes whenever an image file may have changed."""
    digest = hashlib.sha256(f"{FACTS_REVISION} {manifest.folder.resolve()}".encode())
    for name, version in versions.values():
        digest.update(f"{name} {version}\n".encode("utf-8", "surrogateescape"))

    return digest.hexdigest()[:32]


def _save_facts(path: Path, facts: Mapping[int, ImageFacts]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = list(facts.values())
    conversions = ["|".join(conversion.name for conversion in fact.conversions) for fact in values]

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / "facts.npz"
        np.savez(
            unfinished,
            keys=np.array(list(facts), dtype=np.uint64),
            sha256=np.array([fact.sha256 for fact in values]),
            sizes=np.array([(fact.width, fact.height) for fact in values], dtype=np.int32),
            phash=np.array([fact.phash for fact in values], dtype=np.uint64),
            thumbnails=np.stack([fact.thumbnail for fact in values]),
            modes=np.array([fact.mode for fact in values]),
            conversions=np.array(conversions),
        )
        unfinished.replace(path)


def _load_facts(path: Path, versions: Versions) -> dict[int, ImageFacts] | None:
    """Return the cached facts of these images. Return None for a damaged file: it is removed."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns = [stored[name] for name in FACT_NAMES]
        facts = _facts_of(columns, versions)
    except PermissionError as error:  # another user's
        log.warning("%s: the cached facts are not used (%s)", path, error)
        return None
    except DAMAGED as error:
        log.warning(
            "%s: the cached facts of the images are damaged (%s); the images are read again",
            path,
            error,
        )
        path.unlink(missing_ok=True)
        return None

    return facts


def _facts_of(columns: Sequence[Any], versions: Versions) -> dict[int, ImageFacts]:
    """Return the facts in the columns. Raise ValueError unless they are of exactly these images."""
    facts: dict[int, ImageFacts] = {}
    for key, sha256, size, phash, thumbnail, mode, names in zip(*columns, strict=True):
        conversions = tuple(Conversion[name] for name in str(names).split("|") if name)
        facts[int(key)] = ImageFacts(
            sha256=str(sha256),
            width=int(size[0]),
            height=int(size[1]),
            phash=int(phash),
            thumbnail=thumbnail,
            mode=str(mode),
            conversions=conversions,
            version=versions[int(key)][1],
        )
    if facts.keys() != versions.keys():
        raise ValueError("they are of other images")
    return facts
