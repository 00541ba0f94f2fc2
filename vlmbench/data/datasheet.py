"""What a data set is, in figures: counts, pictures, duplicates, the split it would get and its leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.census import validation_counts
from vlmbench.data.dataset import side
from vlmbench.data.load import MAX_LEAKS
from vlmbench.data.looks import near_duplicates
from vlmbench.data.manifest import NO_SPLIT, SPLITS, Manifest, hash_name
from vlmbench.data.pictures import PictureFacts
from vlmbench.data.prepared import read_misfits
from vlmbench.data.splits import find_leaks, leak_messages, split_records
from vlmbench.types import Split, UserError

MOST_LISTED = 50  # duplicates, sizes and values of meta that are named; all are counted


def datasheet(
    manifest: Manifest,
    facts: Mapping[int, PictureFacts],
    shares: Mapping[Split, float],
    *,
    split_seed: int,
    allow_leak: bool,
) -> dict[str, Any]:
    """The figures, ready for JSON. `facts` are of every picture; the other arguments are those of the split."""
    sides, split = _split(manifest, facts, shares, split_seed=split_seed, allow_leak=allow_leak)
    names = _names(manifest)
    known = {name: facts[hash_name(name)] for name in names}
    left_out = read_misfits(manifest.path)
    return {
        "folder": manifest.folder.resolve().name,
        "manifest": manifest.path.name,
        "records": len(manifest),
        "groups": len(np.unique(manifest.groups)),
        "pictures": len(known),
        "counts": _counts(manifest, sides),
        "records_per_group": _spread(np.unique(manifest.groups, return_counts=True)[1]),
        "meta": _meta(manifest),
        "sizes": _sizes(known),
        "modes": dict(Counter(one.mode for one in known.values()).most_common()),
        "conversions": dict(Counter(how.value for one in known.values() for how in one.conversions).most_common()),
        "duplicates": _duplicates(known),
        "split": split,
        "validation": _validation(manifest, sides),
        "left_out": None if left_out is None else _left_out(left_out.count, left_out.total, left_out.named),
    }


def _split(
    manifest: Manifest,
    facts: Mapping[int, PictureFacts],
    shares: Mapping[Split, float],
    *,
    split_seed: int,
    allow_leak: bool,
) -> tuple[NDArray[np.int8] | None, dict[str, Any]]:
    """The side of every record, None where it cannot be split, and what the datasheet says of it."""
    said: dict[str, Any] = {"seed": split_seed, "shares": {str(split): share for split, share in shares.items()}}
    said |= {"fixed_records": int((manifest.splits != NO_SPLIT).sum()), "allow_leak": allow_leak}
    try:
        sides = split_records(manifest, shares, seed=split_seed, by_group_only=allow_leak)
    except UserError as error:
        return None, said | {
            "error": str(error).replace(str(manifest.path), manifest.path.name),
            "sides": {},
            "leaks": 0,
            "leaks_named": [],
        }
    leaks = find_leaks(manifest, sides, facts)
    counted = {
        str(split): {
            "records": int((sides == index).sum()),
            "groups": len(np.unique(manifest.groups[sides == index])),
        }
        for index, split in enumerate(SPLITS)
    }
    messages = leak_messages(manifest, leaks[:MAX_LEAKS], sides)
    named = [message.replace(str(manifest.path), manifest.path.name) for message in messages]
    return sides, said | {"error": None, "sides": counted, "leaks": len(leaks), "leaks_named": named}


def _names(manifest: Manifest) -> dict[str, None]:
    """The pictures' paths within the manifest's folder, each once, in the order of the rows."""
    paths = (image.path for record in manifest for image in record.images)
    return dict.fromkeys(path.relative_to(manifest.folder).as_posix() for path in paths)


def _counts(manifest: Manifest, sides: NDArray[np.int8] | None) -> list[dict[str, Any]]:
    """A row for each task, view and label: records, groups, and records on each side."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    groups: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for index, record in enumerate(manifest):
        key = (str(record.task), record.view, record.label)
        row = rows.setdefault(key, {"records": 0, "groups": 0, **{str(split): 0 for split in SPLITS}})
        row["records"] += 1
        groups[key].add(record.group)
        if sides is not None:
            row[str(SPLITS[sides[index]])] += 1
    named = ("task", "view", "label")
    return [
        {**dict(zip(named, key, strict=True)), **row, "groups": len(groups[key])} for key, row in sorted(rows.items())
    ]


def _validation(manifest: Manifest, sides: NDArray[np.int8] | None) -> list[dict[str, Any]]:
    """A row for each judging task and view: the records that scores would be calibrated on."""
    if sides is None:
        return []
    kinds = ((record.task, record.view) for record in manifest)
    counts = validation_counts(side(manifest, sides, Split.VAL), kinds)
    return [
        {"task": str(task), "view": view, "records": records, "positive": positive, "groups": groups}
        for (task, view), (records, positive, groups) in sorted(counts.items())
    ]


def _spread(values: NDArray[Any]) -> dict[str, float]:
    return {"least": int(values.min()), "median": float(np.median(values)), "most": int(values.max())}


def _meta(manifest: Manifest) -> dict[str, dict[str, int]]:
    """The commonest values of each key of `meta`; a key whose values are all different is left out."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for record in manifest:
        for key, value in record.meta.items():
            values[key][value] += 1
    return {
        key: dict(counts.most_common(MOST_LISTED))
        for key, counts in sorted(values.items())
        if len(counts) < max(2, sum(counts.values()) / 2)
    }


def _sizes(known: Mapping[str, PictureFacts]) -> dict[str, Any]:
    """Upright sizes in pixels."""
    counts = Counter(f"{one.width} x {one.height}" for one in known.values())
    return {
        "width": _spread(np.array([one.width for one in known.values()])),
        "height": _spread(np.array([one.height for one in known.values()])),
        "different": len(counts),
        "commonest": dict(counts.most_common(MOST_LISTED)),
    }


def _duplicates(known: Mapping[str, PictureFacts]) -> dict[str, Any]:
    """Pictures that are the same file under several names, and different files that look the same."""
    by_content: dict[str, list[str]] = defaultdict(list)
    for name, one in known.items():
        by_content[one.sha256].append(name)
    same = [names for names in by_content.values() if len(names) > 1]
    firsts = [names[0] for names in by_content.values()]
    near = near_duplicates([known[name] for name in firsts])
    return {
        "same_file": sum(len(names) - 1 for names in same),
        "same_file_named": same[:MOST_LISTED],
        "near_pairs": len(near),
        "near_pairs_named": [[firsts[one], firsts[other]] for one, other in near[:MOST_LISTED]],
    }


def _left_out(count: int, total: int, named: Any) -> dict[str, Any]:
    return {"count": count, "total": total, "named": [{"place": one.place, "why": one.why} for one in named]}


def datasheet_path(manifest: Path, suffix: str) -> Path:
    """Where the datasheet lies: beside its manifest, under its name."""
    return manifest.with_name(f"{manifest.stem}.datasheet{suffix}")
