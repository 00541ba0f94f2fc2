"""The datasheet of a data set as a page: its figures, and a contact sheet to look at."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from vlmbench.data.datasheet import datasheet, datasheet_path
from vlmbench.data.load import read_pictures
from vlmbench.data.manifest import Manifest, open_manifest
from vlmbench.data.pictures import open_picture
from vlmbench.files import write_whole
from vlmbench.report.build import html_environment
from vlmbench.rundir import to_json
from vlmbench.stats import uncalibrated
from vlmbench.types import ImageRef, Record, Split, UserError

THUMBNAIL = 160  # pixels of the longer side
SHOWN = 6  # records of each task and label
MOST_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A record on the contact sheet; `pictures` are (role, name, data URI)."""

    record: Record
    pictures: tuple[tuple[str, str, str], ...]


def write_datasheet(
    manifest_path: Path,
    *,
    labels: Mapping[str, str],
    views: set[str],
    shares: Mapping[Split, float],
    split_seed: int,
    allow_leak: bool,
    cache_dir: Path,
) -> tuple[Path, dict[str, Any]]:
    """Write the page and its JSON beside the manifest; give the page's path and the figures.

    Raises UserError that names bad rows and pictures, and for a folder that cannot be written to.
    """
    manifest = open_manifest(manifest_path, labels=labels, views=views)
    facts = read_pictures(manifest, cache_dir)
    figures = datasheet(manifest, facts, shares, split_seed=split_seed, allow_leak=allow_leak)
    figures["uncalibrated"] = uncalibrated(
        {(row["task"], row["view"]): (row["records"], row["positive"], row["groups"]) for row in figures["validation"]}
    )
    page = datasheet_path(manifest_path, ".html")
    content = html_environment().get_template("datasheet.html.j2").render(sheet=figures, shown=contact_sheet(manifest))
    try:
        write_whole(datasheet_path(manifest_path, ".json"), to_json(figures) + "\n")
        write_whole(page, content)
    except OSError as error:
        raise UserError(f"{page}: the datasheet cannot be written ({error.strerror}); free the folder") from error
    return page, figures


def doubts(sheet: Mapping[str, Any]) -> list[str]:
    """What somebody has to look at before training, a sentence each."""
    split, left_out, converted = sheet["split"], sheet["left_out"], sum(sheet["conversions"].values())
    lines = [f"it cannot be split: {split['error']}"] if split["error"] else []
    if left_out:
        total = left_out["total"]
        lines.append(f"{left_out['count']} of {total} rows did not fit and were left out (source.misfits=skip)")
    if split["leaks"]:
        lines.append(f"{split['leaks']} leaks between the sides of the split; the datasheet names them")
    lines += sheet["uncalibrated"]
    if converted:
        lines.append(f"{converted} conversions of pictures; the datasheet counts them")
    return lines


def contact_sheet(manifest: Manifest) -> list[Shown]:
    """Records of every task and label, spread evenly over the manifest, with the raw pictures as models see them."""
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    seen: set[tuple[Path, ...]] = set()
    for index, record in enumerate(manifest):
        paths = tuple(image.path for image in record.images)
        if paths not in seen:  # of several views of the same pictures, the first
            seen.add(paths)
            places[record.task, record.label].append(index)
    each = max(1, min(SHOWN, MOST_SHOWN // max(len(places), 1)))
    chosen = [
        indices[int(i)]
        for indices in places.values()
        for i in np.linspace(0, len(indices) - 1, min(each, len(indices))).round()
    ]
    return [_shown(manifest, index) for index in chosen[:MOST_SHOWN]]


def _shown(manifest: Manifest, index: int) -> Shown:
    record = manifest[index]
    return Shown(record=record, pictures=tuple(_picture(image, manifest.folder) for image in record.images))


def _picture(image: ImageRef, folder: Path) -> tuple[str, str, str]:
    small = open_picture(image.path, inside=folder)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    target = BytesIO()
    small.save(target, "WEBP", quality=80)
    uri = f"data:image/webp;base64,{base64.b64encode(target.getvalue()).decode('ascii')}"
    return image.role, image.path.relative_to(folder).as_posix(), uri
