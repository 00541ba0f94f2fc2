"""COCO: JSON files with the lists images, annotations and categories.

A photo in `images` without annotation is without defect. Photos that no file lists are left out.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import msgspec

from vlmbench.data.annotations.files import Files, PhotoIndex, read_bytes
from vlmbench.data.annotations.marks import (
    Mark,
    Problems,
    Reading,
    box_of,
    refuse_many,
    word_of,
)
from vlmbench.data.images import image_path_error, image_size
from vlmbench.types import UserError

MAX_BYTES = 500_000_000  # of a file
Key = int | str


class CocoImage(msgspec.Struct):
    """A photo of the file."""

    id: Key
    file_name: str
    width: float = 0
    height: float = 0


class CocoBox(msgspec.Struct):
    """A box (left, top, width, height) in pixels."""

    image_id: Key
    category_id: Key
    bbox: tuple[float, float, float, float]


class CocoCategory(msgspec.Struct):
    """A class of objects."""

    id: Key
    name: str


class CocoFile(msgspec.Struct):
    """The lists of a file, without the keys that are not needed."""

    images: list[CocoImage]
    annotations: list[CocoBox]
    categories: list[CocoCategory]


class _Keys(msgspec.Struct):
    images: msgspec.Raw
    annotations: msgspec.Raw
    categories: msgspec.Raw


def read_coco(files: Files) -> Reading:
    """Return the boxes of all COCO files. Raise UserError with all errors in them."""
    index = PhotoIndex(files.images)
    marks: dict[str, list[Mark]] = {}
    problems = Problems()

    num_read = 0
    names = files.with_suffix(".json")
    for name in names:
        content = read_bytes(files.root, name, most=MAX_BYTES).removeprefix(BOM_UTF8)
        if not is_coco(content):
            continue

        num_read += 1
        photos = _read_file(files, name, content, index, problems)
        for photo, found in photos.items():
            marks.setdefault(photo, []).extend(found)

    problems.raise_any()
    if names and not num_read:
        raise UserError(
            f"{files.root / names[0]}: the file is not COCO's JSON in UTF-8 with the lists images, "
            "annotations and categories; export it again, or set source.annotations=null"
        )
    return Reading(marks=marks, is_complete=True)


def is_coco(content: bytes) -> bool:
    """Return whether a JSON file has the lists of COCO."""
    try:
        msgspec.json.decode(content.removeprefix(BOM_UTF8), type=_Keys)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _read_file(
    files: Files, name: str, content: bytes, index: PhotoIndex, problems: Problems
) -> dict[str, list[Mark]]:
    """Return the marks of each photo in a file."""
    where = str(files.root / name)
    try:
        coco = msgspec.json.decode(content, type=CocoFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{where}: the file is not COCO's JSON ({error}); export the annotations again"
        ) from error

    if len(coco.images) > len(files.images):
        raise UserError(
            f"{where}: the file lists {len(coco.images):,} images, the folder has only "
            f"{len(files.images):,}; add the missing photos, or list each photo once"
        )
    _refuse_repeated("images", coco.images, where)
    _refuse_repeated("categories", coco.categories, where)
    words = {one.id: word_of(one.name, where) for one in coco.categories}
    photo_of: dict[Key, str] = {}
    sizes: dict[Key, tuple[float, float]] = {}
    for image in coco.images:
        try:
            photo_of[image.id] = _find_photo(files, name, image.file_name, index)
            sizes[image.id] = _size(files, image, photo_of[image.id])
        except UserError as error:
            problems.add(f"{where}: {error}")

    problems.raise_any()
    found: dict[str, list[Mark]] = {photo: [] for photo in photo_of.values()}
    for number, box in enumerate(coco.annotations):
        location = f"{where}: annotations[{number}]"
        try:
            mark = _mark(box, words, sizes, location)
        except UserError as error:
            problems.add(error)
            continue

        marks = found[photo_of[box.image_id]]
        marks.append(mark)
        refuse_many(len(marks), location)

    return found


def _refuse_repeated(key: str, items: Sequence[CocoImage | CocoCategory], where: str) -> None:
    """Raise UserError if two items of a list have one id, which annotations name."""
    counts = Counter(item.id for item in items)
    found, number = (counts.most_common(1) or [("", 0)])[0]
    if number > 1:
        raise UserError(
            f"{where}: {number} of the {key} have the id {found!r}; give each its own id, or "
            "export the annotations again"
        )


def _find_photo(files: Files, name: str, file_name: str, index: PhotoIndex) -> str:
    slashed = file_name.replace("\\", "/")
    path_error = image_path_error(slashed)
    if path_error is not None:
        raise UserError(path_error)

    folder = PurePosixPath(name).parent
    photo = index.find_file((folder / slashed).as_posix())
    for candidate in (slashed, (folder / slashed).as_posix()):
        if candidate in files.images_set:
            return candidate
    if photo is None:
        raise UserError(
            f"the photo {file_name[:80]!r} does not exist, or several have this name; add the "
            "file, or fix file_name"
        )

    return photo


def _size(files: Files, image: CocoImage, photo: str) -> tuple[float, float]:
    if 0 < image.width < 1e6 and 0 < image.height < 1e6:
        return image.width, image.height
    return image_size(files.root / photo, inside=files.root)


def _mark(
    box: CocoBox,
    words: dict[Key, str],
    sizes: dict[Key, tuple[float, float]],
    where: str,
) -> Mark:
    if box.image_id not in sizes or box.category_id not in words:
        raise UserError(
            f"{where}: image_id {box.image_id!r} or category_id {box.category_id!r} is not in the "
            "file; export the annotations again"
        )

    width, height = sizes[box.image_id]
    left, top, across, down = box.bbox
    values = (left / width, top / height, (left + across) / width, (top + down) / height)
    return Mark(word=words[box.category_id], box=box_of(values, where))
