"""DeepPCB: group00041/00041/00041000_test.jpg, with boxes in group00041/00041_not/00041000.txt.

A line is "left top right bottom type" in pixels, with spaces or commas. The publisher's lists
trainval.txt and test.txt are not used: near-duplicates would stand in both splits.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import PurePosixPath

from vlmbench.data.annotations.files import Files, read_bytes
from vlmbench.data.annotations.marks import Mark, Reading, box_of, read_each, refuse_many
from vlmbench.data.images import SUFFIXES, image_size
from vlmbench.types import UserError

MAX_BYTES = 1_000_000  # of a file
FOLDER_ENDING = "_not"
TESTED = "_test"
TYPES = ("open", "short", "mousebite", "spur", "copper", "pin-hole")  # of 1 to 6


def is_deeppcb_text(name: str) -> bool:
    """Return whether a file is in a folder of DeepPCB's boxes, by its name."""
    path = PurePosixPath(name)
    return path.suffix.lower() == ".txt" and path.parent.name.endswith(FOLDER_ENDING)


def read_deeppcb(files: Files) -> Reading:
    """Return the boxes of the tested photos. Raise UserError with all lines that are not valid."""
    names = filter(is_deeppcb_text, files.others)
    return read_each(names, "text", partial(_find_photo, files), partial(_read_file, files))


def _find_photo(files: Files, name: str) -> str | None:
    path = PurePosixPath(name)
    folder = path.parent.with_name(path.parent.name.removesuffix(FOLDER_ENDING) or "_")
    names = [f"{folder / path.stem}{TESTED}{suffix}" for suffix in sorted(SUFFIXES)]
    return next((one for one in names if one in files.images_set), None)


def _read_file(files: Files, name: str, photo: str) -> list[Mark]:
    content = read_bytes(files.root, name, most=MAX_BYTES).decode("utf-8-sig", "replace")
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines:
        return []

    width, height = image_size(files.root / photo, inside=files.root)
    found: list[Mark] = []
    for number, line in enumerate(lines, start=1):
        where = f"{files.root / name}:{number}"
        refuse_many(number, where)
        left, top, right, bottom, kind = _numbers(line, where)
        values = (left / width, top / height, right / width, bottom / height)
        found.append(Mark(word=TYPES[kind - 1], box=box_of(values, where)))

    return found


def _numbers(line: str, where: str) -> list[int]:
    fields = re.split(r"[\s,]+", line.strip())
    is_line = len(fields) == 5 and all(re.fullmatch(r"[0-9]{1,6}", field) for field in fields)
    numbers = [int(field) for field in fields] if is_line else []
    if not numbers or not 1 <= numbers[4] <= len(TYPES):
        raise UserError(
            f"{where}: the line {line[:60]!r} is not 'left top right bottom type', with a type "
            f"from 1 to {len(TYPES)}; mend the line"
        )

    return numbers
