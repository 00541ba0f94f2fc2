"""A photo of a source, and its copy in the prepared folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vlmbench.data.defect_sizes import Area
from vlmbench.data.images import (
    SUFFIXES,
    ImageFacts,
    file_sha256,
    file_version,
    image_facts,
    image_path_error,
)
from vlmbench.data.invalid_rows import MAX_ERRORS
from vlmbench.data.lines import changed_error, read_error
from vlmbench.data.paths import describe_missing, is_folder, is_plain_file, normal_name
from vlmbench.data.photos.left_out import MAX_BESIDE, refuse_endings, usable_files
from vlmbench.system.files import explain_disk_errors
from vlmbench.types import ImageRef, Role, Split, UserError

GOOD, BAD = "normal", "abnormal"
MAX_NAME = 120  # characters of a photo's name that ids keep


class PartRule(StrEnum):
    """How to find a photo's part if nothing else names it."""

    name = "name"  # the file name up to its last "_": part7_3.png shows part7
    photo = "photo"  # every photo shows a part of its own
    folder = "folder"  # the photos of a folder show one part


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """A photo. `name` is unique and has the form of a path. `label` is "normal" or "abnormal".

    `words` describe the defect ("scratch, upper left"). Photos of one `part` stay together. Photos
    are compared only within their `category`. `split` is the split that the user chose, or None.
    `measure` returns the area of each marked defect in pixels, if defects are marked.
    `locate` returns where they are, (height, width) of the photo or of a square.
    """

    name: str
    path: Path
    label: str
    part: str
    words: str = ""
    category: str = ""
    split: Split | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    measure: Callable[[], list[Area]] | None = field(default=None, compare=False)
    locate: Callable[[], NDArray[np.bool_] | None] | None = field(default=None, compare=False)

    @property
    def answer(self) -> str:
        """Return the label, and the words if there are any."""
        return f"{self.label}: {self.words}" if self.words else self.label

    @property
    def record_meta(self) -> dict[str, str]:
        """Return the `meta` of the photo's records."""
        category = {"category": self.category} if self.category else {}

        return {**self.meta, **category}

    @property
    def id(self) -> str:
        """Return the name. Shorten a long name to a hash and its end."""
        if len(self.name) <= MAX_NAME:
            return self.name

        digest = hashlib.sha256(self.name.encode()).hexdigest()

        return f"{digest[:12]}..{self.name[-MAX_NAME + 14 :]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoCopy:
    """A photo's copy in the prepared folder."""

    photo: Photo
    path: Path
    facts: ImageFacts

    def image_ref(self, role: Role, view: str) -> ImageRef:
        """Return the copy as an image of a record."""
        return ImageRef(
            path=self.path,
            role=role,
            view=view,
            sha256=self.facts.sha256,
        )


def part_of(name: str, rule: PartRule) -> str:
    """Return the part that the photo `name` shows."""
    if rule is PartRule.photo:
        return name
    if rule is PartRule.folder:
        return PurePosixPath(name).parent.as_posix()

    stem = PurePosixPath(name).stem

    return normal_name(stem.rpartition("_")[0] or stem)


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder and its subfolders, sorted by name.

    Litter is passed over. Raise UserError if the folder does not exist or has no files, if a link
    leads nowhere, or if a file is not an image by its name.
    """
    if not is_folder(folder):
        raise UserError(f"{folder}: the folder does not exist; create it with photos in it")

    paths = usable_files(folder)
    images = [path for path in paths if path.suffix.lower() in SUFFIXES]
    others = [path for path in paths if path.suffix.lower() not in SUFFIXES]
    if others:
        refuse_endings(others, folder, SUFFIXES, most=MAX_BESIDE if images else 0)
    if not images:
        raise UserError(f"{folder}: the folder is empty; add photos to it")

    return images


def check_names(photos: Sequence[Photo]) -> None:
    """Raise UserError if two files have one name in different Unicode forms."""
    paths: dict[str, Path] = {}
    for photo in photos:
        first = paths.setdefault(photo.name, photo.path)
        if first != photo.path:
            raise UserError(
                f"{photo.path.parent}: the names {first.name!a} and "
                f"{photo.path.name!a} look the same and differ only in their Unicode form; "
                "rename one of them"
            )


def copy_photos(
    photos: Sequence[Photo], *, root: Path, folder: Path, source_path: str
) -> list[PhotoCopy]:
    """Copy the photos from `root` to `folder`/img under their names, and read each once.

    Raise UserError with each photo that cannot be used, at most MAX_ERRORS. It names the user's
    files in `source_path`.
    """
    copies: list[PhotoCopy] = []
    errors: list[str] = []

    for photo in tqdm(
        photos,
        desc="copy photos",
        unit="photo",
        disable=len(photos) < 100,
    ):
        try:
            copies.append(_copy_photo(photo, root, folder))
        except UserError as error:
            errors.append(str(error).replace(str(folder / "img"), source_path))
            if len(errors) >= MAX_ERRORS:
                break

    if errors:
        raise UserError("\n".join(errors))

    return copies


def _copy_photo(photo: Photo, root: Path, folder: Path) -> PhotoCopy:
    target = copy_image(photo.name, photo.path, root=root, folder=folder)
    facts = image_facts(target, inside=folder)

    return PhotoCopy(
        photo=photo,
        path=target,
        facts=facts,
    )


def copy_image(name: str, path: Path, *, root: Path, folder: Path) -> Path:
    """Copy the file to `folder`/img/`name` and return the copy's path.

    A file that is in `folder` already stays in its place. Raise UserError if `name` leads out of
    the folder, or if the file is outside `root`.
    """
    path_error = image_path_error(name)
    if path_error is not None:
        raise UserError(f"{root}: {path_error}")

    if path.is_relative_to(folder):
        return path

    expected = hash_file(path, inside=root)
    target = folder / "img" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # the data folder's disk does not tell capital letters apart
        raise UserError(
            f"{path}: another photo has the same name in other capital letters; rename one of them"
        )

    with explain_disk_errors(str(target)):
        shutil.copyfile(path, target)
    if file_sha256(target) != expected:
        raise changed_error(path)

    return target


# SHA-256 by file version: a run needs a file's hash several times.
_hashes: dict[Hashable, str] = {}


def hash_file(path: Path, *, inside: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raise UserError if the file does not exist or is outside the folder `inside`.
    """
    require_file(path, inside=inside)
    version = file_version(path, inside)
    if version not in _hashes:
        try:
            _hashes[version] = file_sha256(path)
        except OSError as error:
            raise read_error(path, error) from error

    return _hashes[version]


def require_file(path: Path, *, inside: Path) -> None:
    """Raise UserError if an image does not exist or is outside the folder `inside`."""
    if not is_plain_file(path):
        raise UserError(f"{path}: {describe_missing(path)}")

    if not path.resolve().is_relative_to(inside.resolve()):
        raise UserError(
            f"{path}: the link leads out of the folder {inside}; replace the link with a copy of "
            "the file"
        )
