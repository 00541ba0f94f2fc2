"""The datasheet of a manifest as a page: its counts, its split, and a contact sheet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmbench.data.alike import is_cured_by_grouping
from vlmbench.data.datasheet import datasheet, datasheet_path
from vlmbench.data.images import open_image
from vlmbench.data.load import read_images
from vlmbench.data.manifest import Manifest, open_manifest
from vlmbench.data.near_duplicates import NEAR_DUPLICATE
from vlmbench.data.planted import counts_sentence
from vlmbench.report.build import html_environment
from vlmbench.report.images import webp_uri
from vlmbench.runs.folder import to_json
from vlmbench.stats import calibration_shortages
from vlmbench.system.files import write_whole
from vlmbench.types import PLANTED, ImageRef, Record, Split, UserError

THUMBNAIL = 160  # pixels of the longer edge
RECORDS_EACH = 6  # of each task and label on the contact sheet
MOST_RECORDS = 60  # on the contact sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetEntry:
    """A record on the contact sheet; `images` are (role, name, data URI)."""

    record: Record
    images: tuple[tuple[str, str, str], ...]


def write_datasheet(
    manifest_path: Path,
    *,
    labels: Mapping[str, str],
    views: set[str],
    shares: Mapping[Split, float],
    split_seed: int,
    allow_leak: bool,
    cache_dir: Path,
    group_alike: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Write the page and its JSON beside the manifest. Return the page's path and the figures.

    Raise UserError for bad rows or images, and for a folder that is not writable.
    """
    manifest = open_manifest(manifest_path, labels=labels, views=views)
    facts = read_images(manifest, cache_dir)

    figures = datasheet(
        manifest,
        facts,
        shares,
        split_seed=split_seed,
        allow_leak=allow_leak,
        cache_dir=cache_dir,
        group_alike=group_alike,
    )
    figures["uncalibrated"] = _uncalibrated(figures)
    planted = counts_sentence(figures["planted"])

    template = html_environment().get_template("datasheet.html.j2")
    nearest = [_near_pair(pair, manifest.folder) for pair in figures["split"]["nearest"]]
    entries = contact_sheet(manifest)
    html = template.render(
        sheet=figures,
        planted=planted,
        entries=entries,
        nearest=nearest,
        near_limit=NEAR_DUPLICATE,
    )

    page = datasheet_path(manifest_path, ".html")
    try:
        write_whole(datasheet_path(manifest_path, ".json"), to_json(figures) + "\n")
        write_whole(page, html)
    except OSError as error:
        raise UserError(
            f"{page}: the datasheet cannot be written ({error.strerror}); "
            "make the folder writable, or free space on its disk"
        ) from error

    return page, figures


def _uncalibrated(figures: Mapping[str, Any]) -> list[str]:
    """Return why scores would not be calibrated, a sentence for each task and view."""
    counts = {
        (row["task"], row["view"]): (row["records"], row["positive"], row["parts"])
        for row in figures["validation"]
    }
    return calibration_shortages(counts)


def warnings_before_training(sheet: Mapping[str, Any]) -> list[str]:
    """Return the warnings to read before training, one sentence each."""
    split, left_out = sheet["split"], sheet["left_out"]
    lines = []

    if split["error"]:
        lines.append(f"it cannot be split: {split['error']}")

    if left_out:
        rows = f"{left_out['count']} of {left_out['total']} rows"
        lines.append(f"{rows} were invalid and were left out (source.invalid_rows=skip)")

    lines += sheet["look_alikes"]
    if split["leaks"]:
        lines.append(f"{split['leaks']} leaks between the splits; the datasheet lists them")
        if is_cured_by_grouping(split["leaks_named"]) and not split["group_alike"]:
            lines.append(
                "copies and images that look the same can stay in one split; set "
                "data.group_alike=true"
            )

    lines += sheet["uncalibrated"]

    converted = sum(sheet["conversions"].values())
    if converted:
        lines.append(f"{converted} conversions of images; the datasheet counts them")

    return lines


def contact_sheet(manifest: Manifest) -> list[SheetEntry]:
    """Return records of every task and label, spread evenly over the manifest.

    Planted defects are chosen apart from real ones.
    Their images are raw, as models see them. A record in several views appears once.
    """
    indices_of: dict[tuple[str, str, bool], list[int]] = defaultdict(list)
    seen: set[tuple[Path, ...]] = set()

    for index, record in enumerate(manifest):
        paths = tuple(image.path for image in record.images)
        if paths not in seen:
            seen.add(paths)
            indices_of[record.task, record.label, PLANTED in record.meta].append(index)

    each = max(1, min(RECORDS_EACH, MOST_RECORDS // max(len(indices_of), 1)))
    chosen: list[int] = []
    for indices in indices_of.values():
        positions = np.linspace(0, len(indices) - 1, min(each, len(indices))).round()
        chosen += [indices[int(position)] for position in positions]

    return [_entry(manifest, index) for index in chosen[:MOST_RECORDS]]


def _entry(manifest: Manifest, index: int) -> SheetEntry:
    record = manifest[index]
    images = [_image(image, manifest.folder) for image in record.images]
    return SheetEntry(record=record, images=tuple(images))


def _image(image: ImageRef, folder: Path) -> tuple[str, str, str]:
    """Return the role, the name relative to `folder`, and the data URI of a small image."""
    return image.role, image.path.relative_to(folder).as_posix(), _small(image.path, folder)


def _near_pair(pair: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the pair with its images as (split, name, data URI)."""
    images = [
        (split, name, _small(folder / name, folder))
        for split, name in zip(pair["splits"], pair["images"], strict=True)
    ]
    return {**pair, "images": images}


def _small(path: Path, folder: Path) -> str:
    small = open_image(path, inside=folder)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return webp_uri(small)
