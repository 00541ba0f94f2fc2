"""Folders of your own photos become pairs: good/ and bad/, or a CSV file with their labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from omegaconf import MISSING

from vlmbench.config import schema, setting
from vlmbench.data.images import SUFFIXES, image_path_error
from vlmbench.data.invalid_rows import InvalidRow, invalid_rows_error
from vlmbench.data.paths import (
    describe_missing,
    find_path,
    is_folder,
    is_plain_file,
    normal_path,
    path_cure,
)
from vlmbench.data.photos.left_out import is_litter, pass_over, walk
from vlmbench.data.photos.photo import (
    BAD,
    GOOD,
    PartRule,
    Photo,
    check_names,
    list_images,
    part_of,
)
from vlmbench.data.photos.source import PhotoSourceConfig, label_of
from vlmbench.data.photos.table import read_table
from vlmbench.system.text import typed_setting
from vlmbench.types import Split, UserError

# The other columns of a table go into `meta`.
COLUMNS = ("path", "label", "group", "defect", "category", "split")
SPLITS = ("", *Split)
FOLDERS = {GOOD: "good", BAD: "bad"}
MAX_QUOTED = 60  # characters of a field in an error message
MAX_LISTED = 5  # files and folders in an error message

NearNames = Callable[[Path], Mapping[str, str]]


@schema("source", "folder")
@dataclass(kw_only=True)
class FolderConfig(PhotoSourceConfig):
    """Photos in a folder, dealt into lots that share no part and no image.

    `table` is a CSV file in the folder with the columns `path` and `label`. More columns are
    possible: `group` (the part), `defect` (what is wrong, in words), `category` (photos are
    compared within it) and `split` (train, val or test). Without a table, photos are in good/ and
    bad/, and `parts` decides which photos show one part.
    """

    path: str = setting(MISSING, "Folder that holds good/ and bad/, or the table.", cure="photos")
    table: str | None = setting(
        None, "CSV file in the folder with the columns path and label; null: good/ and bad/."
    )
    parts: PartRule = setting(
        PartRule.name,
        'Part of a photo; name: its file name up to the last "_"; photo: each is its own part.',
    )

    def photos(self) -> list[Photo]:
        root = Path(self.path)
        if not is_folder(root):
            cure = path_cure(
                "source.path", root, otherwise=f"put photos into {root}/good and {root}/bad"
            )
            raise UserError(f"source.path={root}: the folder does not exist; {cure}")

        if self.table is not None:
            return self._photos_of_table(root)

        _require_folders(root)
        photos: list[Photo] = []
        for label, folder in FOLDERS.items():
            for path in list_images(root / folder):
                name = normal_path(path.relative_to(root).as_posix())
                part = part_of(name, self.parts)
                photos.append(
                    Photo(
                        name=name,
                        path=path,
                        label=label,
                        part=part,
                    )
                )

        check_names(photos)
        _say_unread(root, [root / folder for folder in FOLDERS.values()])
        return photos

    def _photos_of_table(self, root: Path) -> list[Photo]:
        """Return the photos of the table. Raise UserError with all of its invalid lines."""
        photos: dict[str, Photo] = {}
        locations: dict[str, str] = {}
        invalid_rows: list[InvalidRow] = []
        near_names = cache(_near_names)
        lines = read_table(
            root / str(self.table), required=("path", "label"), invalid_rows=invalid_rows
        )

        for location, fields in lines:
            try:
                photo = self._photo(root, fields, near_names)
                _require_new(photo, locations)
            except UserError as error:
                invalid_rows.append(InvalidRow(location=location, reason=str(error)))
                continue

            photos[photo.name] = photo
            locations[photo.name] = location

        if invalid_rows:
            raise invalid_rows_error(invalid_rows)

        unlisted = _images_below(root) - {photo.path for photo in photos.values()}
        pass_over(sorted(unlisted), root, reason=f"{self.table} does not list them")
        return list(photos.values())

    def _photo(self, root: Path, fields: Mapping[str, str], near_names: NearNames) -> Photo:
        """Return the photo of a line of the table. Raise UserError for an invalid line."""
        name = normal_path(fields["path"])
        path = _existing_path(root, name, near_names)
        split = _split_of(fields)
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
            part=fields.get("group") or part_of(name, self.parts),
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


def _say_unread(root: Path, read: Sequence[Path]) -> None:
    """Log the images in `root` that are in none of the folders that were read."""
    unread = [
        path
        for path in sorted(_images_below(root))
        if not any(path.is_relative_to(folder) for folder in read)
    ]
    pass_over(unread, root, reason="only good/ and bad/ are read")


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


def _require_folders(root: Path) -> None:
    """Raise UserError with the folder's content unless it has good/ and bad/."""
    missing = [name for name in FOLDERS.values() if not (root / name).is_dir()]
    if not missing:
        return

    paths = [path for path in sorted(root.iterdir()) if path.is_dir() or _is_table(path)]
    names = [f"{path.name}/" if path.is_dir() else path.name for path in paths]
    content = f", which has {', '.join(names[:MAX_LISTED])}" if names else ""
    table = next((path.name for path in paths if _is_table(path)), "labels.csv")
    raise UserError(
        f"source.path={root}: the folder {missing[0]}/ does not exist in it{content}; put photos "
        "into good/ and bad/, or list them in a CSV file with the columns path and label and set "
        f"{typed_setting('source.table', table)}"
    )


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".csv"
