"""Recognise the layout of a folder, and name the settings that read it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vlmbench.data.annotations.deeppcb import is_deeppcb_text
from vlmbench.data.annotations.files import Files, list_files
from vlmbench.data.annotations.folders import LABEL_OF, folder_label
from vlmbench.data.annotations.masks import find_masks
from vlmbench.data.annotations.offers import (
    find_label_files,
    label_folders,
    mapping_of_folders,
    sounds_good,
)
from vlmbench.data.annotations.tables import find_table
from vlmbench.data.photos.part_names import class_names
from vlmbench.data.photos.photo import BAD, GOOD, PartRule, part_of
from vlmbench.system.text import typed_setting

TITLES = {"voc": "Pascal VOC", "yolo": "YOLO", "coco": "COCO"}
MVTEC_GOOD = re.compile(r"(?:^|/)(?:train|validation|test|test_public)/good/")
MVTEC_TEST = re.compile(r"(?:^|/)(?:test|test_public)/([^/]+)/")
VISA = re.compile(r"(?:^|/)Data/Images/(?:Normal|Anomaly)/")
KOLEKTOR = re.compile(r"(?:^|/)kos\d+/", re.IGNORECASE)
ELPV = re.compile(r"(?:^|/)cell\d{4}\.png$")
MAGNETIC_TILE = re.compile(r"(?:^|/)MT_\w+/", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A layout: its name, and the settings as they can be typed, without source.path."""

    name: str
    settings: tuple[str, ...]


def recognise(root: Path) -> Layout | None:
    """Return the layout of a folder or of a manifest; None if nothing is recognised."""
    if root.is_file():
        is_manifest = root.suffix.lower() == ".jsonl"
        return Layout(name="a manifest", settings=("source=manifest",)) if is_manifest else None

    files = list_files(root)
    for look in LOOKS:
        layout = look(files)
        if layout is not None:
            return layout

    return None


def typed_command(layout: Layout, path: Path, arguments: Sequence[str] = ()) -> str:
    """Return the command that reads `path`, as it can be typed."""
    own = arguments or ("stage=prepare",)
    words = (*own, layout.settings[0], typed_setting("source.path", path), *layout.settings[1:])
    return f"python -m vlmbench {' '.join(words)}"


def _look_for_pairs(files: Files) -> Layout | None:
    stems = {name.rpartition(".")[0] for name in files.images}
    num_pairs = sum(
        f"{stem.removesuffix('_test')}_temp" in stems for stem in stems if stem.endswith("_test")
    )
    if num_pairs == 0 or 4 * num_pairs < len(stems):
        return None

    name = f"pairs by name ({num_pairs} photos *_temp and *_test)"
    settings = ["source=folder"]
    if any(is_deeppcb_text(other) for other in files.others):
        name = f"DeepPCB ({num_pairs} pairs *_temp and *_test, boxes in *_not/)"
        settings.append("source.annotations=deeppcb")
    return Layout(name=name, settings=(*settings, "source.pairs.policy=name"))


def _look_for_mvtec(files: Files) -> Layout | None:
    kinds = {match[1] for name in files.images if (match := MVTEC_TEST.search(name))}
    has_good = any(MVTEC_GOOD.search(name) for name in files.images)
    has_truth = any("ground_truth/" in name for name in files.images)
    has_kinds = any(kind.casefold() not in LABEL_OF for kind in kinds)

    if has_good and (has_truth or has_kinds):
        return Layout(name="MVTec AD (train/good, test/<defect>)", settings=("source=mvtec",))
    if any(VISA.search(name) for name in files.images):
        return Layout(name="VisA (Data/Images/Normal, Anomaly)", settings=("source=mvtec",))
    return None


def _look_for_label_files(files: Files) -> Layout | None:
    found = find_label_files(files)
    if not found:
        return None

    kind = max(found, key=lambda one: len(found[one]))
    return Layout(
        name=f"{TITLES[kind]} ({len(found[kind])} label files, such as {found[kind][0]})",
        settings=("source=folder", f"source.annotations={kind}", *_parts(files, files.images)),
    )


def _look_for_masks(files: Files) -> Layout | None:
    masks = find_masks(files)
    if not masks.photo_of:
        return None

    photos = [name for name in files.images if name not in masks.names]
    settings = ["source=folder", "source.annotations=masks"]
    name = "photos with masks"
    if all(KOLEKTOR.search(photo) for photo in photos):
        name = "KolektorSDD (kos01/Part0.jpg with Part0_label.bmp)"
        return Layout(name=name, settings=(*settings, "source.parts=folder"))
    if all(MAGNETIC_TILE.search(photo) for photo in photos):
        name = "magnetic tiles (MT_Free/Imgs, MT_Blowhole/Imgs)"

    has_labels = any(folder_label(photo, {}) for photo in photos)
    mapping = None if has_labels else mapping_of_folders(label_folders(photos))
    if mapping and name.startswith("magnetic"):
        settings.append(mapping)
    return Layout(
        name=f"{name}: {len(masks.photo_of)} masks, such as {next(iter(masks.photo_of))}",
        settings=(*settings, *_parts(files, photos)),
    )


def _look_for_table(files: Files) -> Layout | None:
    found = find_table(files)
    if found is None:
        return None

    name, settings = found
    is_elpv = any(ELPV.search(image) for image in files.images)
    title = "ELPV (labels.csv without header)" if is_elpv else f"photos with a table ({name})"
    parts = () if is_elpv else _parts(files, files.images)
    return Layout(name=title, settings=("source=folder", *settings, *parts))


def _look_for_folders(files: Files) -> Layout | None:
    found = [folder_label(name, {}) for name in files.images]
    if {one.label for one in found if one} == {GOOD, BAD}:
        return Layout(
            name="folders of good and bad photos",
            settings=("source=folder", *_parts(files, files.images)),
        )

    if found and all(one is not None and one.label == GOOD for one in found):
        return Layout(
            name="good photos alone; the command plants defects to train on",
            settings=("source=folder", "source.planted.copies=1", *_parts(files, files.images)),
        )

    folders = label_folders(files.images)
    mapping = mapping_of_folders(folders)
    has_good = any(sounds_good(folder) > 0 for folder in folders)
    if len(folders) < 2 or mapping is None or not has_good:
        return None
    return Layout(
        name="photos in folders whose names say what they show; check the labels in the command",
        settings=("source=folder", mapping, *_parts(files, files.images)),
    )


def _parts(files: Files, names: Sequence[str]) -> tuple[str, ...]:
    """Return source.parts=photo if the names of photos turn out to be classes."""
    parts = [part_of(PurePosixPath(name).as_posix(), PartRule.name) for name in names]
    return ("source.parts=photo",) if class_names(parts) else ()


LOOKS: tuple[Callable[[Files], Layout | None], ...] = (
    _look_for_pairs,
    _look_for_mvtec,
    _look_for_label_files,
    _look_for_masks,
    _look_for_table,
    _look_for_folders,
)
