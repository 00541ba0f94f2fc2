"""The files of a user's folder: photos, other files, and what a computer left there by itself."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from vlmbench.data.images import SUFFIXES
from vlmbench.types import UserError

# Files and folders that Windows, macOS and Linux write by themselves, in lower case.
LITTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"})
# Folders that say only what kind of file they hold, in lower case.
IMAGE_FOLDERS = frozenset(
    {"image", "images", "img", "imgs", "jpegimages", "photo", "photos", "data", "pcbdata"}
)
LABEL_FOLDERS = frozenset(
    {"annotation", "annotations", "label", "labels", "xml", "xmls", "obj_train_data"}
)
MASK_FOLDERS = frozenset(
    {"ground_truth", "groundtruth", "gt", "mask", "masks", "segmentation", "label", "labels"}
)
NEUTRAL = IMAGE_FOLDERS | LABEL_FOLDERS | MASK_FOLDERS
MAX_FILES = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a folder by their sorted names, relative to it and with slashes.

    `litter` counts the files that are passed over.
    """

    root: Path
    images: tuple[str, ...]
    others: tuple[str, ...]
    litter: int

    @cached_property
    def images_set(self) -> frozenset[str]:
        """The images, to look one up."""
        return frozenset(self.images)

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Return the other files with one of the suffixes, such as ".xml"."""
        return [name for name in self.others if suffix_of(name) in suffixes]


def list_files(root: Path) -> Files:
    """Return the files of a folder and its subfolders, without hidden ones.

    Links to folders are not followed. Raise UserError for a name that cannot be printed.
    """
    images: list[str] = []
    others: list[str] = []
    litter = 0

    for folder, subfolders, names in os.walk(root):
        is_litter_folder = [name for name in subfolders if _is_litter(name)]
        litter += len(is_litter_folder)
        subfolders[:] = sorted(name for name in subfolders if not _is_skipped(name))

        for name in sorted(names):
            path = Path(folder) / name
            litter += _is_litter(name)
            if _is_skipped(name) or not path.is_file():
                continue

            _check_name(name, folder)
            target = images if path.suffix.lower() in SUFFIXES else others
            target.append(path.relative_to(root).as_posix())

        if len(images) + len(others) > MAX_FILES:
            raise UserError(
                f"{root}: the folder has more than {MAX_FILES:,} files; name a smaller folder"
            )

    return Files(
        root=root, images=tuple(sorted(images)), others=tuple(sorted(others)), litter=litter
    )


def read_bytes(root: Path, name: str, *, most: int) -> bytes:
    """Return the content of a file.

    Raise UserError if it leads out of the folder or has more than `most` bytes.
    """
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{path}: the link leads out of the folder {root}; replace the link with a copy of "
            "the file"
        )

    size = path.stat().st_size
    if size > most:
        raise UserError(
            f"{path}: the file has {size:,} bytes, at most {most:,} are allowed; split the file"
        )

    return path.read_bytes()


def suffix_of(name: str) -> str:
    """Return the suffix of a name in lower case, such as ".xml"."""
    return PurePosixPath(name).suffix.lower()


class PhotoIndex:
    """Finds the photo that a label file or a mask belongs to, by its name."""

    def __init__(self, images: Iterable[str]) -> None:
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for image in images:
            path = PurePosixPath(image)
            self._by_stem[path.stem.casefold()].append(image)
            self._by_name[path.name.casefold()].append(image)

    def find(self, name: str, stem: str | None = None) -> str | None:
        """Return the photo with the stem of the file `name`, or with `stem`; None without one.

        If several photos have this stem, the nearest in the tree is the file's own. Folders such
        as images/ and labels/ do not count. None too if two photos are equally near.
        """
        path = PurePosixPath(name)
        wanted = (path.stem if stem is None else stem).casefold()
        return _nearest(path, [one for one in self._by_stem.get(wanted, []) if one != name])

    def find_file(self, name: str) -> str | None:
        """Return the photo with the file name of `name`; None without one, or with several."""
        path = PurePosixPath(name)
        return _nearest(path, self._by_name.get(path.name.casefold(), []))


def _nearest(path: PurePosixPath, photos: list[str]) -> str | None:
    if len(photos) <= 1:
        return photos[0] if photos else None

    for in_tree in (lambda one: one.parent == path.parent, lambda one: _key(one) == _key(path)):
        same = [photo for photo in photos if in_tree(PurePosixPath(photo))]
        if len(same) == 1:
            return same[0]

    return None


def _key(path: PurePosixPath) -> tuple[str, ...]:
    """Return the folders of a file, without those that name only a kind of file."""
    folders = (folder.casefold() for folder in path.parent.parts)
    return tuple(folder for folder in folders if folder not in NEUTRAL)


def _is_litter(name: str) -> bool:
    return name.casefold() in LITTER or name == ".DS_Store" or name.startswith("._")


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or _is_litter(name)


def _check_name(name: str, folder: str) -> None:
    if not name.isprintable():  # true also for bytes that are not text
        raise UserError(
            f"{folder}: the file name {name!r} has characters that cannot be printed; rename the "
            "file"
        )
