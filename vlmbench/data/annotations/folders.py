"""Labels from the names of folders: OK/ and NG/, train/good and test/bad/scratch, or Japanese."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from vlmbench.data.annotations.files import NEUTRAL
from vlmbench.data.paths import normal_text
from vlmbench.data.photos.photo import BAD, GOOD
from vlmbench.types import UserError

# Names of folders in lower case. The plain pair good/ and bad/ comes first in messages.
GOOD_NAMES = (
    *("good", "ok", "normal", "pass", "passed", "non_defective", "nondefective", "defect_free"),
    *("良品", "正常", "正常品", "合格", "合格品", "良"),
)
BAD_NAMES = (
    *("bad", "ng", "abnormal", "fail", "failed", "defective", "defect", "defects", "faulty"),
    *("anomaly", "anomalous", "not_ok", "notok", "nok"),
    *("不良品", "不良", "異常", "異常品", "不合格", "不合格品"),
)
LABEL_OF: Mapping[str, str] = {**dict.fromkeys(GOOD_NAMES, GOOD), **dict.fromkeys(BAD_NAMES, BAD)}
# Folders that say which photos train.
SPLIT_NAMES = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderLabel:
    """A photo's label, its defect's word, and the category above them, from its folders."""

    label: str
    word: str
    category: str


def folder_label(name: str, mapping: Mapping[str, str]) -> FolderLabel | None:
    """Return what the folders of the photo `name` say; None if none of them names a label.

    `mapping` maps folders to labels: a name, or a path such as "test/OK". Without it, the usual
    names are understood. Folders below the one that names the label are the defect's word. So is
    that folder itself, if its name is not a usual one.
    """
    folders = PurePosixPath(normal_text(name)).parent.parts
    depth, label = _find_label(folders, mapping)
    if label is None:
        return None

    above = [folder for folder in folders[: depth - 1] if not _is_neutral(folder)]
    words = [folder for folder in folders[depth:] if not _is_neutral(folder)]
    own = folders[depth - 1]
    if own.casefold() not in LABEL_OF and label == BAD:
        words.insert(0, own)

    return FolderLabel(
        label=label,
        word=" ".join(words).replace("_", " ") if label == BAD else "",
        category="/".join(above),
    )


def check_folder_labels(folders: Mapping[str, str]) -> None:
    """Raise UserError if `source.folders` maps a folder to anything but normal or abnormal."""
    for folder, label in folders.items():
        if label not in (GOOD, BAD):
            raise UserError(
                f"source.folders: {folder!r} is mapped to {label!r}, must be {GOOD} or {BAD}; set "
                f"'source.folders={{OK: {GOOD}, NG: {BAD}}}'"
            )


def _find_label(folders: tuple[str, ...], mapping: Mapping[str, str]) -> tuple[int, str | None]:
    """Return the number of folders down to the one that names a label, and the label."""
    labels = {
        normal_text(key).strip("/").casefold(): label for key, label in mapping.items()
    } or LABEL_OF

    for depth in range(1, len(folders) + 1):
        path = "/".join(folders[:depth]).casefold()
        label = labels.get(path) or labels.get(folders[depth - 1].casefold())
        if label is not None:
            return depth, label

    return 0, None


def _is_neutral(folder: str) -> bool:
    return folder.casefold() in NEUTRAL | SPLIT_NAMES
