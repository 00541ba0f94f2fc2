"""Describe a data set in figures: counts, images, duplicates, the split it would get, its leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.alike import split_alike
from vlmbench.data.census import validation_counts
from vlmbench.data.images import ImageFacts
from vlmbench.data.load import MAX_LEAKS
from vlmbench.data.manifest import NO_SPLIT, SPLITS, Manifest, SplitIndices, hash_name
from vlmbench.data.near_duplicates import near_duplicates
from vlmbench.data.nearest import describe_near, near_images
from vlmbench.data.planted import count_images
from vlmbench.data.prepared import read_invalid_rows
from vlmbench.data.records import records_of_split
from vlmbench.data.splits import find_leaks, leak_messages, split_records
from vlmbench.types import Split, UserError

MAX_LISTED = 50  # duplicates, sizes and values of meta that are named; all are counted

TaskViewLabel = tuple[str, str, str]


def datasheet(
    manifest: Manifest,
    facts: Mapping[int, ImageFacts],
    shares: Mapping[Split, float],
    *,
    split_seed: int,
    allow_leak: bool,
    cache_dir: Path,
    group_alike: bool = False,
) -> dict[str, Any]:
    """Return the figures, ready for JSON.

    `facts` must have every image. The other arguments are those of the split.
    """
    splits, split = _describe_split(
        manifest,
        facts,
        shares,
        split_seed=split_seed,
        allow_leak=allow_leak,
        cache_dir=cache_dir,
        group_alike=group_alike and not allow_leak,
    )
    images = {name: facts[hash_name(name)] for name in _image_names(manifest)}
    planted = {
        manifest.image_name(manifest[index].images[-1].path)
        for index in np.flatnonzero(manifest.planted).tolist()
    }
    photos = {name: fact for name, fact in images.items() if name not in planted}
    modes = Counter(fact.mode for fact in images.values())
    conversions: Counter[str] = Counter()
    for fact in images.values():
        conversions.update(conversion.value for conversion in fact.conversions)
    records_per_part = np.unique(manifest.groups, return_counts=True)[1]

    return {
        "folder": manifest.folder.resolve().name,
        "manifest": manifest.path.name,
        "records": len(manifest),
        "parts": len(records_per_part),
        "images": len(images),
        "counts": _count_records(manifest, splits),
        "records_per_part": _spread(records_per_part),
        "meta": _count_meta(manifest),
        "sizes": _count_sizes(images),
        "modes": dict(modes.most_common()),
        "conversions": dict(conversions.most_common()),
        "duplicates": _find_duplicates(photos),
        "planted": count_images(manifest, splits),
        "split": split,
        "validation": _count_validation(manifest, splits),
        "left_out": _describe_left_out(manifest),
        "look_alikes": [_without_folder(text, manifest) for text in manifest.warnings],
    }


def datasheet_path(manifest: Path, suffix: str) -> Path:
    """Return the datasheet's path: beside its manifest, under its name."""
    return manifest.with_name(f"{manifest.stem}.datasheet{suffix}")


def _describe_split(
    manifest: Manifest,
    facts: Mapping[int, ImageFacts],
    shares: Mapping[Split, float],
    *,
    split_seed: int,
    allow_leak: bool,
    cache_dir: Path,
    group_alike: bool,
) -> tuple[SplitIndices | None, dict[str, Any]]:
    """Return the split of every record, None if it is impossible, and its description."""
    settings: dict[str, Any] = {
        "seed": split_seed,
        "shares": {str(split): share for split, share in shares.items()},
        "fixed_records": int((manifest.splits != NO_SPLIT).sum()),
        "allow_leak": allow_leak,
        "group_alike": group_alike,
    }
    try:
        if group_alike:
            splits, near, _ = split_alike(
                manifest, shares, facts, seed=split_seed, cache_dir=cache_dir
            )
        else:
            splits = split_records(manifest, shares, seed=split_seed, by_part_only=allow_leak)
            near = near_images(manifest, splits, facts, cache_dir=cache_dir)
    except UserError as error:
        message = _without_folder(str(error), manifest)
        nothing = {
            "splits": {},
            "leaks": 0,
            "leaks_named": [],
            "nearest": [],
            "near_duplicates": [],
        }
        return None, settings | nothing | {"error": message}

    leaks = find_leaks(manifest, splits, facts, near)
    messages = leak_messages(manifest, leaks[:MAX_LEAKS], splits)
    return splits, settings | {
        "error": None,
        "splits": _count_splits(manifest, splits),
        "leaks": len(leaks),
        "leaks_named": [_without_folder(message, manifest) for message in messages],
        "nearest": describe_near(manifest, near),
        "near_duplicates": describe_near(
            manifest, [pair for pair in near if pair.likeness.is_near_duplicate], most=None
        ),
    }


def _without_folder(message: str, manifest: Manifest) -> str:
    return message.replace(str(manifest.path), manifest.path.name)


def _count_splits(manifest: Manifest, splits: SplitIndices) -> dict[str, dict[str, int]]:
    counts = {}
    for index, split in enumerate(SPLITS):
        members = splits == index
        parts = np.unique(manifest.groups[members])
        counts[str(split)] = {"records": int(members.sum()), "parts": len(parts)}

    return counts


def _image_names(manifest: Manifest) -> list[str]:
    """Return the images' paths within the manifest's folder, once each, in the order of rows."""
    names: dict[str, None] = {}
    for record in manifest:
        for image in record.images:
            path = image.path.relative_to(manifest.folder)
            names[path.as_posix()] = None

    return list(names)


def _count_records(manifest: Manifest, splits: SplitIndices | None) -> list[dict[str, Any]]:
    """Return a row for each task, view and label: records, parts, and records in each split."""
    rows: dict[TaskViewLabel, dict[str, Any]] = {}
    parts: dict[TaskViewLabel, set[str]] = defaultdict(set)
    for index, record in enumerate(manifest):
        key = (str(record.task), record.view, record.label)
        parts[key].add(record.group)
        if key not in rows:
            rows[key] = {
                "task": key[0],
                "view": key[1],
                "label": key[2],
                "records": 0,
                "parts": 0,
                **{str(split): 0 for split in SPLITS},
            }

        row = rows[key]
        row["records"] += 1
        row["parts"] = len(parts[key])
        if splits is not None and splits[index] != NO_SPLIT:
            split = SPLITS[splits[index]]
            row[str(split)] += 1

    return [row for _, row in sorted(rows.items())]


def _count_validation(manifest: Manifest, splits: SplitIndices | None) -> list[dict[str, Any]]:
    """Return a row for each judging task and view: the records that calibrate its scores."""
    if splits is None:
        return []

    kinds = ((record.task, record.view) for record in manifest)
    counts = validation_counts(records_of_split(manifest, splits, Split.VAL), kinds)
    return [
        {
            "task": str(task),
            "view": view,
            "records": records,
            "positive": positive,
            "parts": parts,
        }
        for (task, view), (records, positive, parts) in sorted(counts.items())
    ]


def _spread(values: NDArray[Any]) -> dict[str, float]:
    return {
        "least": int(values.min()),
        "median": float(np.median(values)),
        "most": int(values.max()),
    }


def _count_meta(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Return the most frequent values of each key of `meta`.

    A key whose values are mostly different is left out.
    """
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for record in manifest:
        for key, value in record.meta.items():
            values[key][value] += 1

    return {
        key: dict(counts.most_common(MAX_LISTED))
        for key, counts in sorted(values.items())
        if len(counts) < max(2, sum(counts.values()) / 2)
    }


def _count_sizes(images: Mapping[str, ImageFacts]) -> dict[str, Any]:
    """Return the upright sizes in pixels."""
    sizes = [(fact.width, fact.height) for fact in images.values()]
    counts = Counter(f"{width} x {height}" for width, height in sizes)
    widths, heights = np.array(sizes).T

    return {
        "width": _spread(widths),
        "height": _spread(heights),
        "different": len(counts),
        "commonest": dict(counts.most_common(MAX_LISTED)),
    }


def _find_duplicates(images: Mapping[str, ImageFacts]) -> dict[str, Any]:
    """Return the files that stand under several names, and the different files that look alike."""
    names_of_file: dict[str, list[str]] = defaultdict(list)
    for name, fact in images.items():
        names_of_file[fact.sha256].append(name)

    same = [names for names in names_of_file.values() if len(names) > 1]
    firsts = [names[0] for names in names_of_file.values()]
    near = near_duplicates([images[name] for name in firsts])
    near_names = [[firsts[i], firsts[j]] for i, j in near]  # all: users group by this list
    return {
        "same_file": sum(len(names) - 1 for names in same),
        "same_file_named": same[:MAX_LISTED],
        "near_pairs": len(near),
        "near_pairs_named": near_names,
    }


def _describe_left_out(manifest: Manifest) -> dict[str, Any] | None:
    left_out = read_invalid_rows(manifest.path)
    if left_out is None:
        return None

    named = [{"location": row.location, "reason": row.reason} for row in left_out.named]
    return {"count": left_out.count, "total": left_out.total, "named": named}
