"""Masks: images whose white pixels are a photo's defect, beside the photos or in a parallel tree.

Names: part.jpg with part.png, part.bmp, part_mask.png, part_GT.png or part_label.bmp; or any of
these in a folder such as ground_truth/ or masks/. A folder of masks, as in MVTec LOCO, may stand
for one mask. A black mask says that its photo is without defect.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.annotations.files import MASK_FOLDERS, Files, PhotoIndex, suffix_of
from vlmbench.data.annotations.marks import Mark, Reading, note_without_photo
from vlmbench.data.images import image_size, open_image, open_mask, turn_upright
from vlmbench.data.paths import find_path, is_plain_file, normal_path
from vlmbench.data.photos.photo import list_images
from vlmbench.types import UserError

# The end of a mask's name, after its photo's name.
ENDING = re.compile(
    r"(.+?)[_\-. ](?:mask|gt|label|seg|segmentation|ground_?truth|anno)(?:[_-]?\d{1,3})?",
    re.IGNORECASE,
)
ENDINGS = ("_mask", "_GT", "_gt", "_label", "")  # of MVTec's trees: the first that exists
SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
LOSSY = (".jpg", ".jpeg", ".webp")
MAX_GREYS = 16  # grey levels of a mask
EDGE_GREYS = 40  # grey levels from black or white in a mask that was saved as JPEG
EDGE_SHARE = 0.98  # of the pixels of such a mask
SAMPLE = 5  # masks that are opened to learn whether images with masks' names are masks


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """Which images are masks: `photo_of` maps a mask to its photo. `alone` have no photo."""

    photo_of: dict[str, str]
    alone: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset((*self.photo_of, *self.alone))


def find_masks(files: Files) -> Masks:
    """Return the images that are masks, by their names and by their grey levels."""
    named = {name: stem for name in files.images if (stem := _photo_stem(name)) is not None}
    if named and not _are_masks(files, sorted(named)):
        named = {}

    index = PhotoIndex(name for name in files.images if name not in named)
    photo_of: dict[str, str] = {}
    alone: list[str] = []
    for name, stem in named.items():
        photo = index.find(name, stem) or index.find(name) or _of_folder(index, name)
        if photo is None:
            alone.append(name)
        else:
            photo_of[name] = photo

    for mask, photo in _same_stems(files, named):
        photo_of[mask] = photo

    return Masks(photo_of=photo_of, alone=tuple(alone))


def read_masks(files: Files) -> Reading:
    """Return a mark for each mask that is not black."""
    masks = find_masks(files)
    marks: dict[str, list[Mark]] = defaultdict(list)
    for mask, photo in masks.photo_of.items():
        path = files.root / mask
        found = marks[photo]
        if white_pixels(path, files.root).any():
            found.append(Mark(mask=path))

    notes = note_without_photo("mask", masks.alone)
    if not masks.photo_of:
        raise UserError(
            f"source.path={files.root}: no image is a mask by its name and its grey levels; name "
            "masks as in part_mask.png beside part.jpg, or set source.annotations=null"
        )
    return Reading(marks=dict(marks), not_photos=masks.names, notes=notes)


def list_masks(folder: Path, stem: str) -> list[Path]:
    """Return the masks of the photo `stem` in `folder`: a file, or all files in a folder."""
    for ending in ENDINGS:
        for suffix in SUFFIXES:
            path = find_path(folder, normal_path(f"{stem}{ending}{suffix}"))
            if is_plain_file(path):
                return [path]

    masks = find_path(folder, normal_path(stem))
    return list_images(masks) if masks.is_dir() else []


def white_pixels(mask: Path, root: Path) -> NDArray[np.bool_]:
    """Return where a mask is white, (height, width). JPEG's noise around black does not count."""
    if mask.suffix.lower() not in LOSSY:
        return open_mask(mask, inside=root)

    grey = np.asarray(open_image(mask, inside=root).convert("L"))
    marked: NDArray[np.bool_] = grey > 127
    return marked


def upright_mask(mask: Path, photo: Path, root: Path) -> NDArray[np.bool_]:
    """Return the mask for the upright photo, (height, width).

    Raise UserError if the mask has neither the photo's stored size nor its upright size.
    """
    marked = white_pixels(mask, root)
    width, height = image_size(photo, inside=root)
    if marked.shape == (height, width):
        return turn_upright(marked, photo, inside=root)

    upright = turn_upright(np.zeros((height, width), np.bool_), photo, inside=root)
    if marked.shape == upright.shape:
        return marked

    is_turned = upright.shape != (height, width)
    turned = f" ({height} x {width} upright)" if is_turned else ""
    raise UserError(
        f"{mask}: the mask has {marked.shape[1]} x {marked.shape[0]} pixels, its photo has {width} "
        f"x {height}{turned}; replace the mask, or set source.regions=false"
    )


def _photo_stem(name: str) -> str | None:
    """Return the stem of a mask's photo; None for a name that is not a mask's."""
    path = PurePosixPath(name)
    match = ENDING.fullmatch(path.stem)
    if match:
        return match[1]

    in_folder = any(folder.casefold() in MASK_FOLDERS for folder in path.parent.parts)
    return path.stem if in_folder else None


def _of_folder(index: PhotoIndex, name: str) -> str | None:
    """Return the photo that a mask's folder is named after."""
    path = PurePosixPath(name)
    return index.find(path.parent.as_posix(), path.parent.name)


def _are_masks(files: Files, names: Sequence[str]) -> bool:
    """Return whether a sample of the images has the grey levels of masks.

    Images that cannot be read are passed over here. The error that names them comes later.
    """
    step = max(1, len(names) // SAMPLE)
    found = [_is_mask(files, name) for name in names[::step][:SAMPLE]]
    return True in found and False not in found


def _same_stems(files: Files, named: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (mask, photo) of files in one folder whose names differ in the suffix alone.

    The files with a suffix are masks if most of those that have such a twin look like masks.
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in files.images:
        if name not in named:
            by_stem[PurePosixPath(name).with_suffix("").as_posix()].append(name)

    twins = [names for names in by_stem.values() if len(names) > 1]
    for suffix in SUFFIXES:
        of_suffix = [name for names in twins for name in names if suffix_of(name) == suffix]
        found = [_is_mask(files, name) for name in of_suffix]
        if True not in found or found.count(True) < found.count(False):
            continue

        for names in twins:
            photos = [name for name in names if suffix_of(name) != suffix]
            masks = [name for name in names if suffix_of(name) == suffix]
            if len(photos) == 1:
                yield from ((mask, photos[0]) for mask in masks)


def _is_mask(files: Files, name: str) -> bool | None:
    """Return whether an image has few grey levels; None for one that cannot be read."""
    try:
        image = open_image(files.root / name, inside=files.root)
    except UserError:
        return None

    grey = np.asarray(image.convert("L"))
    counts = np.bincount(grey.ravel(), minlength=256)
    if suffix_of(name) not in LOSSY:
        return int((counts > 0).sum()) <= MAX_GREYS

    at_edges = counts[:EDGE_GREYS].sum() + counts[-EDGE_GREYS:].sum()
    return bool(at_edges >= EDGE_SHARE * grey.size)
