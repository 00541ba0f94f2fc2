"""One experiment's data: the manifest's records on their sides, every picture read once, leaks found or ruled out."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vlmbench.data.dataset import Subset, side
from vlmbench.data.manifest import Manifest, hash_name
from vlmbench.data.pictures import Conversion, PictureFacts, picture_facts
from vlmbench.data.prepared import read_misfits
from vlmbench.data.splits import find_leaks, leak_messages, split_records
from vlmbench.data.wrongs import MAX_ERRORS
from vlmbench.types import Record, Split, UserError

log = logging.getLogger(__name__)

MAX_LEAKS = 10  # leaks named in one message
FACTS = 2  # raise it when other facts are read, or kept in another way
FACT_NAMES = ("keys", "sha256", "sizes", "phash", "thumbnails", "modes", "conversions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The sides of an experiment. `facts` maps a picture's 64-bit name hash to what was read from its file; `leaks` are
    sentences on what stands on two sides and was allowed to."""

    manifest: Manifest
    train: Subset
    val: Subset
    test: Subset
    facts: Mapping[int, PictureFacts]
    leaks: tuple[str, ...]
    warnings: tuple[str, ...]

    def sizes(self, record: Record) -> list[tuple[int, int]]:
        """(width, height) of the pictures of a manifest's record."""
        keys = [hash_name(self.manifest.name(image.path)) for image in record.images]
        return [(self.facts[key].width, self.facts[key].height) for key in keys]


def load_data(
    manifest: Manifest, shares: Mapping[Split, float], *, split_seed: int, allow_leak: bool, cache_dir: Path
) -> Data:
    """Read every picture, split by part and check the sides.

    Raises UserError that names each unreadable picture, a leak's two rows, or an empty side.
    `allow_leak` makes leaks warnings and splits by group alone, so that pictures may be shared.
    """
    facts = read_pictures(manifest, cache_dir)
    _check_declared(manifest, facts)
    sides = split_records(manifest, shares, seed=split_seed, by_group_only=allow_leak)
    leaks = leak_messages(manifest, find_leaks(manifest, sides, facts), sides)
    if leaks and not allow_leak:
        more = [f"... and {len(leaks) - MAX_LEAKS} more"] if len(leaks) > MAX_LEAKS else []
        cure = (
            "what is learnt must not be asked: put these rows into one group, fix their split, or set "
            "data.allow_leak=true to make this a warning that the report repeats"
        )
        raise UserError("\n".join([*leaks[:MAX_LEAKS], *more, cure]))
    parts = {split: side(manifest, sides, split) for split in Split}
    left_out = read_misfits(manifest.path)
    warnings = [left_out.sentence] if left_out else []
    warnings += [f"{len(leaks)} leaks between the sides were allowed (data.allow_leak): {leaks[0]}"] if leaks else []
    return Data(
        manifest=manifest,
        train=parts[Split.TRAIN],
        val=parts[Split.VAL],
        test=parts[Split.TEST],
        facts=facts,
        leaks=tuple(leaks),
        warnings=tuple(warnings),
    )


def data_hash(manifest: Manifest, facts: Mapping[int, PictureFacts]) -> str:
    """Of the manifest's bytes and of the bytes of every picture that it names."""
    with manifest.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for name, picture in sorted(facts.items()):
        digest.update(f"{name:016x} {picture.sha256}\n".encode())
    return digest.hexdigest()


def read_pictures(manifest: Manifest, cache_dir: Path) -> dict[int, PictureFacts]:
    """The facts of every picture that the manifest names, from `cache_dir` where none of the files has changed.

    Raises UserError that names each picture that cannot be used and the row that wants it (MAX_ERRORS of them).
    """
    names: dict[str, int] = {}
    for index, record in enumerate(manifest):
        for image in record.images:
            names.setdefault(manifest.name(image.path), index)
    cached = cache_dir / "pictures" / f"{_state(manifest, names)}.npz"
    if cached.exists() and (known := _load_facts(cached)) is not None:
        return known
    facts, errors = {}, []
    for name, index in tqdm(names.items(), desc="read pictures", unit="picture", disable=len(names) < 100):
        try:
            facts[hash_name(name)] = picture_facts(manifest.folder / name, inside=manifest.folder)
        except UserError as error:
            errors.append(f"{manifest.place(index)}: {error}")
            if len(errors) >= MAX_ERRORS:
                break
    if errors:
        raise UserError("\n".join(errors))
    _save_facts(cached, facts)
    return facts


def _check_declared(manifest: Manifest, facts: Mapping[int, PictureFacts]) -> None:
    for index, record in enumerate(manifest):
        for image in record.images:
            name = manifest.name(image.path)
            found = facts[hash_name(name)].sha256
            if image.sha256 and image.sha256 != found:
                raise UserError(
                    f"{manifest.place(index)}: {name} has sha256 {found[:12]}..., the row says {image.sha256[:12]}...; "
                    "the picture was changed after the manifest was written, restore it or fix the row"
                )


def _state(manifest: Manifest, names: Mapping[str, int]) -> str:
    """Changes whenever a picture's file may have changed."""
    digest = hashlib.sha256(f"{FACTS} {manifest.folder.resolve()}".encode())
    for name in names:
        try:
            stat = (manifest.folder / name).stat()
        except OSError:  # reported with its row when it is read
            continue
        # The time of the last change too: a picture may be replaced by one of the same size and time of writing.
        digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _save_facts(path: Path, facts: Mapping[int, PictureFacts]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = list(facts.values())
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / "facts.npz"
        np.savez(
            unfinished,
            keys=np.array(list(facts), dtype=np.uint64),
            sha256=np.array([value.sha256 for value in values]),
            sizes=np.array([(value.width, value.height) for value in values], dtype=np.int32),
            phash=np.array([value.phash for value in values], dtype=np.uint64),
            thumbnails=np.stack([value.thumbnail for value in values]),
            modes=np.array([value.mode for value in values]),
            conversions=np.array(["|".join(conversion.name for conversion in value.conversions) for value in values]),
        )
        unfinished.replace(path)


def _load_facts(path: Path) -> dict[int, PictureFacts] | None:
    """None for a damaged file, which is removed: the pictures are read again."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns = [stored[name] for name in FACT_NAMES]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s: what was read of the pictures is damaged (%s); they are read again", path, error)
        path.unlink(missing_ok=True)
        return None
    return {
        int(key): PictureFacts(
            sha256=str(sha256),
            width=int(size[0]),
            height=int(size[1]),
            phash=int(phash),
            thumbnail=thumbnail,
            mode=str(mode),
            conversions=tuple(Conversion[name] for name in str(conversions).split("|") if name),
        )
        for key, sha256, size, phash, thumbnail, mode, conversions in zip(*columns, strict=True)
    }
