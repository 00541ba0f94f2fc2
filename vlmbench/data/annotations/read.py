"""Read a folder of photos with all that it says of them: folders' names, label files and masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from vlmbench.data.annotations.coco import read_coco
from vlmbench.data.annotations.deeppcb import read_deeppcb
from vlmbench.data.annotations.files import Files, list_files, refuse_unknown_files
from vlmbench.data.annotations.folders import FolderLabel, folder_label
from vlmbench.data.annotations.marks import Mark, Problems, Reading
from vlmbench.data.annotations.masks import find_masks, read_masks
from vlmbench.data.annotations.offers import offer_label_files
from vlmbench.data.annotations.voc import read_voc
from vlmbench.data.annotations.where import (
    defect_areas,
    describe_marks,
    join_words,
    marked_area,
)
from vlmbench.data.annotations.yolo import read_yolo
from vlmbench.data.labels import GOOD_WORDS
from vlmbench.data.paths import normal_path
from vlmbench.data.photos.left_out import warn_once
from vlmbench.data.photos.photo import BAD, GOOD, Photo
from vlmbench.types import UserError


class Format(StrEnum):
    """The label files that say which photos are abnormal, and where."""

    voc = "voc"  # Pascal VOC: an XML file for each photo
    coco = "coco"  # COCO: a JSON file for many photos
    yolo = "yolo"  # YOLO: a text file for each photo
    deeppcb = "deeppcb"  # DeepPCB: a text file for each tested photo
    masks = "masks"  # an image for each photo whose white pixels are the defect


READERS: Mapping[Format, Callable[[Files], Reading]] = {
    Format.voc: read_voc,
    Format.coco: read_coco,
    Format.yolo: read_yolo,
    Format.deeppcb: read_deeppcb,
    Format.masks: read_masks,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How to read a folder.

    `folders` and `labels` map folders and class names to "normal" and "abnormal". With `regions`,
    answers say where a defect is. `part_of` returns the part of a photo by its name. Photos for
    which `is_reference` is true are good whatever folder they are in.
    """

    part_of: Callable[[str], str]
    is_reference: Callable[[str], bool]
    annotations: Format | None = None
    folders: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    regions: bool = True


def read_photos(root: Path, choices: Choices) -> list[Photo]:
    """Return the photos of a folder with their labels; [] if nothing labels a photo.

    Log what was left out and why. Raise UserError with all files that contradict each other.
    """
    files = list_files(root)
    reading = _read_marks(files, choices)
    names = [name for name in files.images if name not in reading.not_photos]
    known = {name: _folder_label(name, choices) for name in names}
    has_categories = _have_both_labels([found for found in known.values() if found])

    photos: list[Photo] = []
    left_out: list[str] = []
    problems = Problems()
    for name in names:
        try:
            photo = _photo(root, name, known[name], reading, choices)
        except UserError as error:
            problems.add(error)
            continue

        if photo is None:
            left_out.append(name)
        else:
            photos.append(photo if has_categories else replace(photo, category=""))

    problems.raise_any()
    refuse_unknown_files(files, [photo.path.relative_to(root).as_posix() for photo in photos])
    if photos:
        _log_notes(files, reading, left_out, choices)
    return photos


def _folder_label(name: str, choices: Choices) -> FolderLabel | None:
    found = folder_label(name, choices.folders)
    if choices.is_reference(name):
        return FolderLabel(label=GOOD, word="", category=found.category if found else "")
    return found


def _read_marks(files: Files, choices: Choices) -> Reading:
    """Return the marks of the chosen format. Raise UserError for masks that would be photos."""
    if choices.annotations is not None:
        return READERS[choices.annotations](files)

    masks = find_masks(files)
    labelled = [name for name in sorted(masks.names) if folder_label(name, choices.folders)]
    if labelled:
        raise UserError(
            f"source.path={files.root}: {len(labelled)} images are masks by their name and their "
            f"few grey levels, not photos, such as {labelled[0]}; set source.annotations=masks, or "
            "move them out of the folder"
        )

    note = f"{len(masks.names)} masks are not used; set source.annotations=masks"
    return Reading(marks={}, not_photos=masks.names, notes=(note,) if masks.names else ())


def _photo(
    root: Path, name: str, found: FolderLabel | None, reading: Reading, choices: Choices
) -> Photo | None:
    """Return a photo; None if nothing labels it."""
    all_marks = reading.marks.get(name)
    is_unknown = all_marks is None and (choices.annotations is None or reading.is_complete)
    if is_unknown and found is None:
        return None

    marks = [mark for mark in all_marks or () if not _is_good(mark, choices.labels)]
    label = found.label if found else (BAD if marks else GOOD)
    if label == GOOD and marks:
        raise UserError(
            f"{root / name}: the folder says {GOOD}, the {choices.annotations} file marks "
            f"{join_words(marks) or 'a defect'}; move the photo, or mend the file"
        )

    defect = join_words(marks) or (found.word if found else "")
    region = describe_marks(marks, root / name, root) if choices.regions else ""
    known = {"defect": defect, "region": region}
    meta = {key: word for key, word in known.items() if word}

    return Photo(
        name=normal_path(name),
        path=root / name,
        label=label,
        part=choices.part_of(normal_path(name)),
        words=", ".join(filter(None, (defect, region))),
        category=found.category if found else "",
        meta=meta,
        measure=partial(defect_areas, marks, root / name, root) if marks else None,
        locate=partial(marked_area, marks, root / name, root) if marks else None,
    )


def _is_good(mark: Mark, labels: Mapping[str, str]) -> bool:
    """Return whether a mark's class names a good part, as in detection of good and bad parts."""
    by_default = GOOD if mark.word.casefold() in GOOD_WORDS - {"0"} else BAD
    return labels.get(mark.word, by_default) == GOOD


def _have_both_labels(found: Sequence[FolderLabel]) -> bool:
    """Return whether the folders above the labels are categories: each has both labels."""
    labels: dict[str, set[str]] = {}
    for one in found:
        labels.setdefault(one.category, set()).add(one.label)

    return len(labels) > 1 and all(len(both) == 2 for both in labels.values())


def _log_notes(files: Files, reading: Reading, left_out: Sequence[str], choices: Choices) -> None:
    notes = list(reading.notes)
    if left_out:
        folders = Counter(name.rpartition("/")[0] or "." for name in left_out)
        named = ", ".join(f"{folder} ({count})" for folder, count in folders.most_common(5))
        photos = "1 photo is" if len(left_out) == 1 else f"{len(left_out)} photos are"
        notes.append(f"{photos} left out, because nothing gives a label: {named}")
    if choices.annotations is None:
        notes += offer_label_files(files)

    without = [name for name in files.images if name not in reading.marks]
    is_partly_marked = choices.annotations in (Format.voc, Format.yolo) and reading.marks
    unlabelled = [name for name in without if folder_label(name, choices.folders) is None]
    if is_partly_marked and unlabelled:
        photos = "1 photo has" if len(unlabelled) == 1 else f"{len(unlabelled)} photos have"
        notes.append(
            f"{photos} no {choices.annotations} file and count as {GOOD}, such as {unlabelled[0]}"
        )

    for note in notes:
        warn_once(files.root, note)
