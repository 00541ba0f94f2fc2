"""Label files in a folder, and the setting that uses them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from vlmbench.data.annotations.coco import is_coco
from vlmbench.data.annotations.files import NEUTRAL, Files, PhotoIndex, list_files, read_bytes
from vlmbench.data.annotations.folders import BAD_NAMES, GOOD_NAMES, SPLIT_NAMES
from vlmbench.data.annotations.masks import find_masks
from vlmbench.data.annotations.voc import is_voc
from vlmbench.data.annotations.yolo import NAMES, is_yolo, label_texts
from vlmbench.data.labels import TYPED_KEYS
from vlmbench.data.photos.photo import BAD, GOOD
from vlmbench.system.text import typed_setting
from vlmbench.types import UserError

MAX_LISTED = 8  # folders and files in a message
MAX_NAMED = 30  # folders in source.folders
SAMPLE = 5  # files of a kind that are opened
MOST = 20_000_000  # bytes of a file that is opened


def find_label_files(files: Files) -> dict[str, list[str]]:
    """Return the label files of each format that the folder has.

    The keys are the values of source.annotations. A sample of the files is opened.
    """
    index = PhotoIndex(files.images)
    of_photos = [name for name in files.others if index.find(name) is not None]
    found = {
        "voc": [name for name in of_photos if name.lower().endswith(".xml")],
        "yolo": [name for name in label_texts(files) if name in set(of_photos)],
        "coco": files.with_suffix(".json"),
    }

    checks = {
        "voc": is_voc,
        "yolo": lambda content: is_yolo(content.decode("utf-8", "replace")),
        "coco": is_coco,
    }
    return {
        kind: names
        for kind, names in found.items()
        if any(checks[kind](content) for content in _sample(files, names))
    }


def offer_label_files(files: Files) -> list[str]:
    """Return a sentence for each format of label files that is not used."""
    notes = []
    for kind, names in find_label_files(files).items():
        notes.append(
            f"{len(names)} {kind.upper()} label files, such as {names[0]}, are not used; set "
            f"source.annotations={kind} for words and positions of defects"
        )

    rest = [name for name in label_texts(files) if not name.endswith(NAMES)]
    if rest and not notes:
        notes.append(f"{len(rest)} text files, such as {rest[0]}, are passed over")
    return notes


def _sample(files: Files, names: Sequence[str]) -> list[bytes]:
    contents = []
    step = max(1, len(names) // SAMPLE)
    for name in names[::step][:SAMPLE]:
        try:
            contents.append(read_bytes(files.root, name, most=MOST))
        except UserError:  # it is too large, or leads out of the folder
            continue

    return contents


def unlabelled_error(root: Path, *, is_chosen: bool) -> UserError:
    """Return the error for a folder in which nothing labels a photo, with the setting that may.

    With `is_chosen`, the user chose folders or a format that label nothing.
    """
    files = list_files(root)
    folders = label_folders(files.images)
    content = _content(root)
    problem = (
        "no photo is in a folder that source.folders or source.annotations labels"
        if is_chosen
        else "no photo is in a folder whose name is a label, such as good/ or bad/"
    )
    return UserError(f"source.path={root}: {problem}{content}; {_label_cure(files, folders)}")


def _label_cure(files: Files, folders: Sequence[str]) -> str:
    tables = [name for name in files.with_suffix(".csv", ".tsv") if "/" not in name]
    if tables:
        return (
            "list the photos in it with the columns path and label, and set "
            f"{typed_setting('source.table', tables[0])}"
        )

    for kind in find_label_files(files):
        return f"set source.annotations={kind}"
    if find_masks(files).photo_of:
        return "set source.annotations=masks"

    mapping = mapping_of_folders(folders) if len(folders) >= 2 else None
    if mapping:
        return f"say what each folder holds: set {mapping}"
    return (
        "put photos into good/ and bad/, or list them in a CSV file with the columns path and "
        "label and set source.table=labels.csv; if all are good, put them into good/ alone and "
        "set source.planted.copies=1"
    )


def label_folders(names: Iterable[str]) -> list[str]:
    """Return the names of the lowest folders that hold photos, without train/, images/ and such."""
    folders: dict[str, None] = {}
    for name in names:
        own = [
            folder
            for folder in PurePosixPath(name).parent.parts
            if folder.casefold() not in NEUTRAL | SPLIT_NAMES
        ]
        if own:
            folders[own[-1]] = None

    return list(folders)


def mapping_of_folders(folders: Sequence[str]) -> str | None:
    """Return source.folders as it can be typed; None for names that cannot be typed.

    The folder that sounds most like good parts is normal.
    """
    if not folders:
        return None

    names = list(folders)[:MAX_NAMED]
    best = max(range(len(names)), key=lambda i: (sounds_good(names[i]), -i))
    labels = {name: GOOD if i == best else BAD for i, name in enumerate(names)}
    mapping = ", ".join(f"{name}: {label}" for name, label in labels.items())
    if TYPED_KEYS.fullmatch(mapping):
        return f"'source.folders={{{mapping}}}'"
    return None


def sounds_good(name: str) -> int:
    """Return how well a folder's name fits good parts: 2 for a usual word, 1 for one within it."""
    words = re.split(r"[^\w]|_|(?<=[a-z])(?=[A-Z])", name)
    is_word = any(word.casefold() in (*GOOD_NAMES, "free") for word in words)
    is_bad = any(word.casefold() in BAD_NAMES for word in words)
    return 2 * is_word - is_bad


def _content(root: Path) -> str:
    paths = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    names = [f"{path.name}/" if path.is_dir() else path.name for path in paths]
    folders_first = sorted(names, key=lambda name: not name.endswith("/"))
    return f". It has {', '.join(folders_first[:MAX_LISTED])}" if names else ""
