"""A picture that a source found, and its copy in the prepared folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from vlmbench.data.pictures import SUFFIXES, PictureFacts, file_sha256, path_error, picture_facts, place_of
from vlmbench.data.wrongs import MAX_ERRORS
from vlmbench.types import ImageRef, Role, Split, UserError

GOOD, BAD = "normal", "abnormal"
MAX_NAME = 120  # characters of a photo's name that ids keep


class Parts(StrEnum):
    """How photos of one part are told where nothing else says so."""

    name = "name"  # by what stands before the last "_" of the file's name: part7_3.png
    photo = "photo"  # every photo shows a part of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """`name` is its own, in words of a path; `label` is normal or abnormal.

    `words` say what is wrong with the part ("scratch, upper left"). Photos of one `part` stay together, and photos are
    compared with those of their own `category` only. `split` is a side that the user fixed.
    """

    name: str
    path: Path
    label: str
    part: str
    words: str = ""
    category: str = ""
    split: Split | None = None
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        return f"{self.label}: {self.words}" if self.words else self.label

    @property
    def said(self) -> dict[str, str]:
        """The `meta` of its records."""
        return {**self.meta, **({"category": self.category} if self.category else {})}

    @property
    def id(self) -> str:
        """Its name, or for a long one its end and a hash."""
        if len(self.name) <= MAX_NAME:
            return self.name
        return f"{hashlib.sha256(self.name.encode()).hexdigest()[:12]}..{self.name[-MAX_NAME + 14 :]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A photo's copy in the prepared folder."""

    photo: Photo
    path: Path
    facts: PictureFacts

    def shown(self, role: Role, view: str) -> ImageRef:
        """The picture as part of a record."""
        return ImageRef(path=self.path, role=role, view=view, sha256=self.facts.sha256)


def part_of(name: str, parts: Parts) -> str:
    """The part that a photo of this name shows."""
    path = PurePosixPath(name)
    stem = path.stem.rpartition("_")[0] or path.stem
    return name if parts is Parts.photo else stem


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder and its subfolders, in the order of their names.

    Raises UserError for a file that is none by its name, and for an empty or missing folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; put photos into it, or correct source.path")
    hidden = (path for path in folder.rglob("*") if path.is_file())
    paths = sorted(path for path in hidden if not any(p.startswith(".") for p in path.relative_to(folder).parts))
    for path in paths:
        if not path.name.isprintable():  # bytes that are no text are not either
            raise UserError(f"{folder}: the name {path.name!r} has characters that cannot be printed; rename the file")
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path}: not a picture by its name; convert it to one of {', '.join(sorted(SUFFIXES))}")
    if not paths:
        raise UserError(f"{folder}: the folder is empty; put photos into it")
    return paths


def bring_in(photos: Sequence[Photo], *, root: Path, folder: Path, place: str) -> list[Copy]:
    """Copy the photos from `root` into `folder`/img, under their names, and read each once.

    Raises UserError that names each photo that cannot be used (MAX_ERRORS of them), as a file of `place`.
    """
    copies, errors = [], []
    for photo in tqdm(photos, desc="bring in photos", unit="photo", disable=len(photos) < 100):
        try:
            copies.append(_bring(photo, root, folder))
        except UserError as error:
            errors.append(str(error).replace(str(folder / "img"), place))
            if len(errors) >= MAX_ERRORS:
                break
    if errors:
        raise UserError("\n".join(errors))
    return copies


def _bring(photo: Photo, root: Path, folder: Path) -> Copy:
    target = copy_picture(photo.name, photo.path, root=root, folder=folder)
    return Copy(photo=photo, path=target, facts=picture_facts(target, inside=folder))


def copy_picture(name: str, path: Path, *, root: Path, folder: Path) -> Path:
    """The file's copy at `folder`/img/`name`; a file that lies in `folder` already is left where it is.

    Raises UserError for a name that is no path within the folder, and for a file that leads out of `root`.
    """
    wrong = path_error(name)
    if wrong is not None:
        raise UserError(f"{root}: {wrong}")
    if path.is_relative_to(folder):
        return path
    checked_sha256(path, inside=root)
    target = folder / "img" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return target


_hashes: dict[Hashable, str] = {}  # sha256 of files, by place: a run asks for them several times


def checked_sha256(path: Path, *, inside: Path) -> str:
    """SHA-256 of a file's bytes. Raises UserError where it is missing or leads out of the folder `inside`."""
    require_file(path, inside=inside)
    place = place_of(path, inside)
    if place not in _hashes:
        _hashes[place] = file_sha256(path)
    return _hashes[place]


def require_file(path: Path, *, inside: Path) -> None:
    """Raise UserError where a picture is missing or leads out of the folder `inside`."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such picture; fix the path or add the file")
    if not path.resolve().is_relative_to(inside.resolve()):
        raise UserError(f"{path}: the link leads out of the folder {inside}; copy the picture into the folder")
