"""The normal form of names and paths, and cures for settings whose path leads nowhere."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path, PurePosixPath

from vlmbench.system.text import typed_setting
from vlmbench.types import UserError

# Blanks, and marks that choose between two shapes of one character.
NO_DIFFERENCE = re.compile(r"[\s\ufe00-\ufe0f]+")


def normal_name(name: str) -> str:
    """Return the one spelling of a name: Unicode's NFC, without spaces at its ends.

    macOS writes file names in NFD, and keyboards write NFC. Full-width letters stay as they are.
    """
    return normal_text(name).strip(" ")


def normal_text(text: str) -> str:
    """Return the text in Unicode's NFC."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def normal_path(name: str) -> str:
    """Return the one spelling of a relative path: NFC, no ".", no double slash.

    ".." removes the folder before it. A path that leads out of its folder still begins with "..".
    """
    return posixpath.normpath(normal_text(name)) if name else name


def find_path(folder: Path, name: str) -> Path:
    """Return the path of `name` in the folder, in the spelling that the disk has.

    `name` is a normal path. Return `folder/name` if no file has this name. Raise UserError if two
    files have it in different spellings.
    """
    if name.isascii():
        return folder / name

    path = folder
    for part in PurePosixPath(name).parts:
        spellings = () if part.isascii() else _spellings_in(path).get(part, ())
        if len(spellings) > 1:
            first, second = (ascii(spelling) for spelling in spellings[:2])
            raise UserError(
                f"{path}: the names {first} and {second} look the same and differ only in their "
                "Unicode form; rename one of them"
            )
        path /= spellings[0] if spellings else part

    return path


def is_plain_file(path: Path) -> bool:
    """Return whether a path leads to a file, and not to a folder, a device, a pipe or nothing."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # no file can have such a name
        return False


def is_folder(path: Path) -> bool:
    """Return whether a path leads to a folder."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def describe_missing(path: Path) -> str:
    """Return why an image is not there, and the cure."""
    is_link = False
    with suppress(OSError, ValueError):
        is_link = path.is_symlink()

    if is_link:
        return (
            "the image does not exist, its link leads to no file; fetch the file (dvc pull, or git "
            "annex get .), or remove the link"
        )
    return "the image does not exist; fix the path, or add the file"


def look_alikes(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of different names that look alike, in order: see `blurred_name`."""
    first_of: dict[str, str] = {}
    pairs = []
    for name in dict.fromkeys(names):
        first = first_of.setdefault(blurred_name(name), name)
        if first != name:
            pairs.append((first, name))

    return pairs


def blurred_name(name: str) -> str:
    """Return what is left of a name without case, width, blanks and variants of characters."""
    folded = name.casefold()
    if not folded.isascii():
        folded = unicodedata.normalize("NFKC", folded).casefold()
    return NO_DIFFERENCE.sub("", folded)


def _spellings_in(folder: Path) -> Mapping[str, tuple[str, ...]]:
    """Return the names in a folder beyond ASCII, by their normal form."""
    try:
        return _list_spellings(folder, folder.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=64)
def _list_spellings(folder: Path, _version: int) -> Mapping[str, tuple[str, ...]]:
    spellings: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.isascii():
            normal = normal_text(path.name)
            spellings[normal] = (*spellings.get(normal, ()), path.name)

    return spellings


def path_cure(setting: str, path: Path, *, is_folder: bool = True, otherwise: str) -> str:
    """Return the cure for a setting whose path does not exist, or is no folder (file).

    It is "set <setting>=<path>" with the existing path whose name is closest, or `otherwise` if no
    name is close.
    """
    siblings: list[Path] = []
    with suppress(OSError):
        siblings = sorted(path.parent.iterdir())

    names = [sibling.name for sibling in siblings if sibling.is_dir() is is_folder]
    closest = get_close_matches(path.name, [name for name in names if name != path.name], n=1)
    if not closest:
        return otherwise

    return f"set {typed_setting(setting, path.with_name(closest[0]))}"
