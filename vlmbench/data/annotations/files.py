"""The files of a user's folder: photos, other files, and what a computer left there by itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from vlmbench.data.images import SUFFIXES
from vlmbench.data.paths import normal_text
from vlmbench.data.photos.left_out import refuse_endings, usable_files
from vlmbench.types import UserError

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
# Files that may describe photos, however many they are.
LABEL_SUFFIXES = frozenset({".xml", ".txt", ".json", ".yaml", ".yml", ".names", ".csv", ".tsv"})
MAX_FILES = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a folder by their sorted names, relative to it and with slashes.

    The names are spelled as on the disk.
    """

    root: Path
    images: tuple[str, ...]
    others: tuple[str, ...]

    @cached_property
    def images_set(self) -> frozenset[str]:
        """The images, to look one up."""
        return frozenset(self.images)

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Return the other files with one of the suffixes, such as ".xml"."""
        return [name for name in self.others if suffix_of(name) in suffixes]


def list_files(root: Path) -> Files:
    """Return the files of a folder and its subfolders. Litter is passed over, and said once.

    Raise UserError for names that cannot be printed, and for links that lead nowhere.
    """
    paths = usable_files(root)
    if len(paths) > MAX_FILES:
        raise UserError(
            f"{root}: the folder has more than {MAX_FILES:,} files; name a smaller folder"
        )

    names = {path: path.relative_to(root).as_posix() for path in paths}
    return Files(
        root=root,
        images=tuple(name for path, name in names.items() if path.suffix.lower() in SUFFIXES),
        others=tuple(name for path, name in names.items() if path.suffix.lower() not in SUFFIXES),
    )


def refuse_unknown_files(files: Files, names: Iterable[str]) -> None:
    """Raise UserError if files beside the photos `names` may be photos in an unknown format."""
    folders = {name.rpartition("/")[0] for name in names}
    unknown: dict[str, list[Path]] = defaultdict(list)
    for name in files.others:
        folder = name.rpartition("/")[0]
        if folder in folders and suffix_of(name) not in LABEL_SUFFIXES:
            unknown[folder].append(files.root / name)

    for folder, paths in unknown.items():
        refuse_endings(paths, files.root / folder, SUFFIXES)


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
            f"{path}: the file has {size:,} bytes, at most {most:,} are allowed; split the file, "
            "or move it to another folder"
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
            self._by_stem[_fold(path.stem)].append(image)
            self._by_name[_fold(path.name)].append(image)

    def find(self, name: str, stem: str | None = None) -> str | None:
        """Return the photo with the stem of the file `name`, or with `stem`; None without one.

        If several photos have this stem, the nearest in the tree is the file's own. Folders such
        as images/ and labels/ do not count. None too if two photos are equally near.
        """
        path = PurePosixPath(name)
        wanted = _fold(path.stem if stem is None else stem)
        return _nearest(path, [one for one in self._by_stem.get(wanted, []) if one != name])

    def find_file(self, name: str) -> str | None:
        """Return the photo with the file name of `name`; None without one, or with several."""
        path = PurePosixPath(name)
        return _nearest(path, self._by_name.get(_fold(path.name), []))


def _nearest(path: PurePosixPath, photos: list[str]) -> str | None:
    if len(photos) <= 1:
        return photos[0] if photos else None

    for in_tree in (lambda one: one.parent == path.parent, lambda one: _key(one) == _key(path)):
        same = [photo for photo in photos if in_tree(PurePosixPath(photo))]
        if len(same) == 1:
            return same[0]

    return None


def _fold(name: str) -> str:
    return normal_text(name).casefold()


def _key(path: PurePosixPath) -> tuple[str, ...]:
    """Return the folders of a file, without those that name only a kind of file."""
    folders = (folder.casefold() for folder in path.parent.parts)
    return tuple(folder for folder in folders if folder not in NEUTRAL)
