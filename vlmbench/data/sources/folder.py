"""Folders of photos become pairs; folders' names, label files, masks or a table label them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from vlmbench.config import read_mapping, schema, setting
from vlmbench.data.annotations.folders import check_folder_labels
from vlmbench.data.annotations.offers import unlabelled_error
from vlmbench.data.annotations.read import Choices, Format, read_photos
from vlmbench.data.annotations.recognise import recognise
from vlmbench.data.images import SUFFIXES, image_path_error
from vlmbench.data.invalid_rows import (
    InvalidRow,
    invalid_rows_error,
    stop_note,
)
from vlmbench.data.paths import (
    describe_missing,
    find_path,
    is_folder,
    is_plain_file,
    normal_path,
    path_cure,
)
from vlmbench.data.photos.columns import TableShape
from vlmbench.data.photos.left_out import is_litter, pass_over, walk
from vlmbench.data.photos.likely import UNSURE, check_unsure, likely_label
from vlmbench.data.photos.part_names import check_part_names
from vlmbench.data.photos.photo import GOOD, PartRule, Photo, check_names, part_of
from vlmbench.data.photos.source import PhotoSourceConfig, label_of
from vlmbench.data.photos.table import read_table
from vlmbench.system.files import MAX_NAME
from vlmbench.types import Split, UserError

# The other columns of a table go into `meta`.
COLUMNS = ("path", "label", "group", "defect", "category", "split")
SPLITS = ("", *Split)
MAX_QUOTED = 60  # characters of a field in an error message

NearNames = Callable[[Path], Mapping[str, str]]


@schema("source", "folder")
@dataclass(kw_only=True)
class FolderConfig(PhotoSourceConfig):
    """Photos in a folder, dealt into lots that share no part and no image.

    `table` is a CSV file in the folder with the columns `path` and `label`. More columns are
    possible: `group` (the part), `defect` (what is wrong, in words), `category` (photos are
    compared within it) and `split` (train, val or test). Without a table, the folders' names say
    which photos are good, or `annotations` does. `parts` decides which photos show one part.
    """

    path: str = setting(MISSING, "Folder of the photos, with their labels.", cure="photos")
    annotations: Format | None = setting(
        None, "Label files or masks to use: voc, coco, yolo, deeppcb or masks; null: none."
    )
    # Any: with dict[str, str], OmegaConf refuses new keys on the command line.
    folders: Any = setting(
        None,
        "Labels of folders, such as {OK: normal, NG: abnormal}; null: the usual names, such as "
        "good/ and bad/.",
    )
    regions: bool = setting(
        True, 'Answers say where a marked defect is: "abnormal: scratch, upper left".'
    )
    table: str | None = setting(
        None, "CSV file in the folder with the columns path and label; null: no table."
    )
    columns: Any = setting(
        None,
        "Columns of the table, such as {image: filename, label: class}, or {image: 1, label: 2} "
        "without header; null: path and label.",
    )
    encoding: str | None = setting(
        None, "Encoding of the table, such as cp932 for Shift-JIS; null: UTF-8, or guessed."
    )
    unsure: list[float] = setting(
        factory=lambda: [0.25, 0.75],
        meaning="Labels such as 0.0 to 1.0 say how likely a defect is; photos between these two "
        "are left out.",
    )
    parts: PartRule | None = setting(
        None,
        'Part of a photo: name (file name up to the last "_"), photo (its own part) or folder; '
        "null: name, unless names are classes.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()

        self.folders = read_mapping("source.folders", self.folders, "{OK: normal, NG: abnormal}")
        check_folder_labels(self.folders)
        self.columns = read_mapping("source.columns", self.columns, "{image: filename}")
        check_unsure(self.unsure)

    def photos(self) -> list[Photo]:
        if not self.path.strip():
            raise UserError("source.path is empty; set source.path=photos")

        root = Path(self.path)
        if any(len(os.fsencode(part)) > MAX_NAME for part in root.parts):
            raise UserError(
                f"source.path={root}: a name in it is too long, the limit is {MAX_NAME} bytes; "
                "set source.path=photos"
            )
        if not is_folder(root):
            cure = path_cure(
                "source.path", root, otherwise=f"put photos into {root}/good and {root}/bad"
            )
            raise UserError(f"source.path={root}: the folder does not exist; {cure}")

        if self.table is not None:
            photos = self._photos_of_table(root)
        else:
            photos = read_photos(root, self._choices())

        if not photos:
            raise unlabelled_error(root, is_chosen=bool(self.annotations or self.folders))
        if len({photo.label for photo in photos}) == 1:
            self._suggest_layout(root, photos[0].label)
        if self.parts is None and not self.pairs.is_by_name:
            check_part_names(photos, self.path)

        check_names(photos)
        return photos

    def _suggest_layout(self, root: Path, label: str) -> None:
        """Raise UserError if another source reads the folder, whose photos all have one label."""
        layout = recognise(root)
        if layout is not None and layout.settings[0] != "source=folder":
            raise UserError(
                f"source.path={root}: all photos are {label} by their folders' names, both labels "
                f"are needed. The folder looks like {layout.name}; set {layout.settings[0]}"
            )

    def _part_of(self, name: str) -> str:
        if self.pairs.is_by_name:
            key = self.pairs.reference_key(name) or self.pairs.query_key(name)
            return key or name

        return part_of(name, self.parts or PartRule.name)

    def _is_reference(self, name: str) -> bool:
        return self.pairs.is_by_name and self.pairs.reference_key(name) is not None

    def _choices(self) -> Choices:
        return Choices(
            annotations=self.annotations,
            folders=self.folders,
            labels=self.labels,
            regions=self.regions,
            part_of=self._part_of,
            is_reference=self._is_reference,
        )

    def _photos_of_table(self, root: Path) -> list[Photo]:
        """Return the photos of the table. Raise UserError with all of its invalid lines."""
        photos: dict[str, Photo] = {}
        locations: dict[str, str] = {}
        invalid_rows: list[InvalidRow] = []
        near_names = cache(_near_names)
        unsure: list[Path] = []
        table = root / str(self.table)
        lines = read_table(
            table,
            required=("path", "label"),
            invalid_rows=invalid_rows,
            shape=TableShape(encoding=self.encoding, columns=self.columns),
        )

        for location, fields in lines:
            try:
                photo = self._photo(root, fields, near_names)
                _require_new(photo, locations)
            except UserError as error:
                invalid_rows.append(InvalidRow(location=location, reason=str(error)))
                continue

            locations[photo.name] = location
            if photo.label == UNSURE:
                unsure.append(photo.path)
            else:
                photos[photo.name] = photo

        if invalid_rows:
            raise invalid_rows_error(invalid_rows, cure=stop_note(table, invalid_rows))

        pass_over(unsure, root, reason=f"their labels are between source.unsure={self.unsure}")
        unlisted = _images_below(root) - {photo.path for photo in photos.values()} - {*unsure}
        pass_over(sorted(unlisted), root, reason=f"{self.table} does not list them")
        return list(photos.values())

    def _photo(self, root: Path, fields: Mapping[str, str], near_names: NearNames) -> Photo:
        """Return the photo of a line of the table. Raise UserError for an invalid line."""
        name = normal_path(fields["path"].replace("\\", "/"))
        path = _existing_path(root, name, near_names)
        split = _split_of(fields)
        label = likely_label(fields["label"], self.unsure, self.labels)
        if label is None:
            label = label_of(fields["label"], self.labels)
        defect = fields.get("defect", "")

        if label == GOOD and defect:
            raise UserError(
                f"the photo is {GOOD}, but defect is {defect[:MAX_QUOTED]!r}; change the label, or "
                "leave defect empty"
            )

        meta = {key: value for key, value in fields.items() if key not in COLUMNS and value}
        if defect:
            meta["defect"] = defect

        return Photo(
            name=name,
            path=path,
            label=label,
            part=fields.get("group") or self._part_of(name),
            words=defect,
            category=fields.get("category", ""),
            split=split,
            meta=meta,
        )


def _images_below(root: Path) -> set[Path]:
    """Return the images in a folder, and links that may lead to images, without hidden ones."""
    return {
        path for path in walk(root) if path.suffix.lower() in SUFFIXES and not is_litter(path, root)
    }


def _require_new(photo: Photo, locations: Mapping[str, str]) -> None:
    """Raise UserError if an earlier line has the same photo."""
    if photo.name in locations:
        raise UserError(
            f"{photo.name} is in {locations[photo.name]} already; keep one line for each photo"
        )


def _existing_path(root: Path, name: str, near_names: NearNames) -> Path:
    """Return the path of the photo `name`. Raise UserError if it does not exist in `root`."""
    path_error = image_path_error(name)
    if path_error is not None:
        raise UserError(path_error)

    path = find_path(root, name)
    if not is_plain_file(path):
        near = near_names(path.parent).get(path.stem.casefold())
        if near and near != path.name:
            raise UserError(f"{path}: the image does not exist; did you mean {near}?")
        raise UserError(f"{path}: {describe_missing(path)}")

    return path


def _split_of(fields: Mapping[str, str]) -> Split | None:
    """Return the split of a line, None for an empty field. Raise UserError for another word."""
    split = fields.get("split", "")

    if split not in SPLITS:
        raise UserError(
            f"split {split[:MAX_QUOTED]!r} is not one of {', '.join(Split)}; write one of these, "
            "or leave split empty"
        )

    return Split(split) if split else None


def _near_names(folder: Path) -> dict[str, str]:
    """Return the folder's images by their stem in lower case.

    The stem finds a name with another suffix, or with other capital letters.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []

    return {path.stem.casefold(): path.name for path in paths if path.suffix.lower() in SUFFIXES}
