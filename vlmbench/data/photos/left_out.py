"""Files of a folder of photos that are no photos: litter is passed over and said, the rest refused.

A photo must not vanish in silence. Links that lead nowhere and unknown endings are errors. Other
files beside the photos are passed over up to MAX_BESIDE.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlmbench.types import UserError

log = logging.getLogger(__name__)

MAX_BESIDE = 3  # files with other endings, such as a README, that one folder may hold
MAX_NAMED = 3  # files that a message names
LITTER = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"})
LITTER_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
# Endings of files that describe photos, or have nothing to do with them. All others may be photos.
BESIDE = frozenset({".txt", ".md", ".pdf", ".csv", ".json", ".xml", ".log", ".yaml", ".yml", ""})
_said: set[str] = set()


def is_litter(path: Path, folder: Path) -> bool:
    """Return whether a file is hidden, or one that Windows or macOS writes into folders."""
    parts = path.relative_to(folder).parts
    hidden = any(part.startswith(".") or part in LITTER_FOLDERS for part in parts)
    return hidden or path.name.casefold() in LITTER


def walk(folder: Path) -> list[Path]:
    """Return everything below a folder but its folders, sorted. Links to folders are returned too.

    Raise UserError for a folder that cannot be read.
    """
    paths: list[Path] = []
    waiting = [folder]
    while waiting:  # os.walk is recursive, and folders can be too deep for that
        current = waiting.pop()
        try:
            for entry in os.scandir(current):
                found = waiting if entry.is_dir(follow_symlinks=False) else paths
                found.append(Path(entry.path))
        except OSError as error:
            raise UserError(
                f"{current}: the folder cannot be read ({error.strerror}); allow reading it "
                "(chmod u+rx), or move it away"
            ) from error

    return sorted(paths)


def usable_files(folder: Path) -> list[Path]:
    """Return the files of a folder and its subfolders, sorted. Litter is passed over and said once.

    Raise UserError for links that lead nowhere, and for names that cannot be printed.
    """
    found = walk(folder)
    litter = [path for path in found if is_litter(path, folder)]
    pass_over(litter, folder, reason="hidden files and litter of the system are no photos")

    paths = [path for path in found if not is_litter(path, folder)]
    refuse_missing(paths, folder)
    for path in paths:
        refuse_unprintable(path)
    return paths


def refuse_unprintable(path: Path) -> None:
    """Raise UserError for a name that cannot be printed, or is not text."""
    if not path.name.isprintable():  # false too for bytes that are not text
        raise UserError(
            f"{path.parent}: the file name {path.name!r} has characters that cannot be "
            "printed; rename the file"
        )


def refuse_missing(paths: Iterable[Path], folder: Path) -> None:
    """Raise UserError if some paths lead to no file: links that lead nowhere, pipes, devices."""
    missing = [path for path in paths if not path.is_file()]
    if not missing:
        return

    links = [path for path in missing if path.is_symlink()]
    to_folders = [path for path in links if path.is_dir()]
    if to_folders:
        raise UserError(
            f"{folder}: links to folders are not followed: {name_some(to_folders)}; copy these "
            "folders"
        )
    if links:
        raise UserError(
            f"{folder}: links that lead to no file: {name_some(links)}; fetch the files (dvc pull, "
            "or git annex get .), or remove the links"
        )
    raise UserError(f"{folder}: not plain files: {name_some(missing)}; move them to another folder")


def pass_over(paths: Sequence[Path], folder: Path, *, reason: str) -> None:
    """Log once for each folder how many files are passed over."""
    if paths:
        warn_once(folder, f"passed over: {reason}", about=f"{name_some(paths)} ")


def warn_once(folder: Path, words: str, *, about: str = "") -> None:
    """Log words about a folder, unless they were said of it before; `about` stands before them."""
    if f"{folder} {words}" not in _said:
        _said.add(f"{folder} {words}")
        log.warning("%s: %s%s", folder, about, words)


def refuse_endings(
    paths: Sequence[Path], folder: Path, valid: Iterable[str], *, most: int = MAX_BESIDE
) -> None:
    """Raise UserError if files with other endings than `valid` may be photos, or are many."""
    counts = Counter(path.suffix.lower() for path in paths)
    if all(suffix in BESIDE for suffix in counts) and len(paths) <= most:
        pass_over(paths, folder, reason="their endings are not those of photos")
        return

    endings = ", ".join(f"{suffix or 'none'} ({count})" for suffix, count in counts.most_common(5))
    raise UserError(
        f"{folder}: the suffix of {name_some(paths)} is not one of {', '.join(sorted(valid))}, "
        f"but {endings}; convert the files, or move them to another folder"
    )


def name_some(paths: Sequence[Path]) -> str:
    """Return the number of the files and the first ones: "16 files (a.png, b.png, ...)"."""
    names = [path.name if path.name.isprintable() else ascii(path.name) for path in paths]
    more = ", ..." if len(names) > MAX_NAMED else ""
    word = "file" if len(names) == 1 else "files"
    return f"{len(names)} {word} ({', '.join(names[:MAX_NAMED])}{more})"
