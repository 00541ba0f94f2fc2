"""YOLO: a text file for each photo, with a line "class x y width height" for each box.

x and y are the box's centre. All lengths are shares of the photo. A polygon "class x1 y1 x2 y2 ..."
is read as its box. An empty text file says that its photo is without defect. Class names stand in
classes.txt, obj.names or data.yaml.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import yaml

from vlmbench.data.annotations.files import Files, PhotoIndex, read_bytes, suffix_of
from vlmbench.data.annotations.marks import (
    Box,
    Mark,
    Reading,
    box_of,
    read_each,
    refuse_many,
    word_of,
)
from vlmbench.types import UserError

MAX_BYTES = 10_000_000  # of a file
MAX_CLASSES = 10_000
MAX_YAML = 200_000  # bytes, as for 10,000 classes: 600,000 take 10 s
NAMES = ("classes.txt", "obj.names", "predefined_classes.txt")
YAMLS = (".yaml", ".yml")
NUMBER = re.compile(r"[0-9]{1,6}")  # of a class
BaseLoader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # in C: three times as fast
# Text files that stand beside photos and hold no boxes, in lower case.
OTHER_TEXTS = frozenset({*NAMES, "readme.txt", "license.txt", "notes.txt", "requirements.txt"})


def read_yolo(files: Files) -> Reading:
    """Return the boxes of all text files. Raise UserError with all lines that cannot be read."""
    index, classes = PhotoIndex(files.images), read_classes(files)
    reading = read_each(
        label_texts(files),
        "text",
        index.find,
        lambda name, _: _read_file(files, name, classes),
    )

    if classes or not any(reading.marks.values()):
        return reading
    note = "classes have no names: answers lack the defect's word; add classes.txt"
    return replace(reading, notes=(*reading.notes, note))


def label_texts(files: Files) -> list[str]:
    """Return the text files that may hold boxes."""
    texts = files.with_suffix(".txt")
    return [name for name in texts if PurePosixPath(name).name.casefold() not in OTHER_TEXTS]


def read_classes(files: Files) -> list[str]:
    """Return the class names by their number; [] if no file has them."""
    for name in files.others:
        if PurePosixPath(name).name.casefold() in NAMES or suffix_of(name) == ".names":
            lines = _text(files, name).rstrip().splitlines()
            return _words(lines, str(files.root / name))

    for name in files.with_suffix(*YAMLS):
        classes = _classes_of_yaml(files, name)
        if classes:
            return classes

    return []


def is_yolo(text: str) -> bool:
    """Return whether a text has boxes, and nothing else."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    try:
        return bool(lines) and all(_box(fields, "") is not None for fields in lines)
    except UserError:
        return False


def _classes_of_yaml(files: Files, name: str) -> list[str]:
    """Return the class names of a yaml file. Each is the text that the file has: no is not false.

    The keys of a mapping are the numbers of the classes.
    """
    where = str(files.root / name)
    try:
        # Base loaders make texts only: tags call nothing, and merge keys do not multiply.
        content = yaml.load(_text(files, name, MAX_YAML), Loader=BaseLoader)  # noqa: S506
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise UserError(f"{where}: the file is no valid yaml; mend the file") from error

    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        numbers = {int(key): word for key, word in names.items() if NUMBER.fullmatch(str(key))}
        names = [numbers.get(number, "") for number in range(max(numbers, default=-1) + 1)]
    if not isinstance(names, list):
        return []
    return _words([word if isinstance(word, str) else "" for word in names], where)


def _words(names: Sequence[str], where: str) -> list[str]:
    """Return the classes' words. Raise UserError for too many."""
    if len(names) > MAX_CLASSES:
        raise UserError(
            f"{where}: the file has more than {MAX_CLASSES:,} classes; remove those that no line "
            "uses, or move the file to another folder"
        )
    return [word_of(name, where) for name in names]


def _read_file(files: Files, name: str, classes: Sequence[str]) -> list[Mark]:
    found: list[Mark] = []
    for number, line in enumerate(_text(files, name).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue

        where = f"{files.root / name}:{number}"
        refuse_many(len(found) + 1, where)
        box = _box(fields, where)
        found.append(Mark(word=_word(fields[0], classes, where), box=box))

    return found


def _word(number: str, classes: Sequence[str], where: str) -> str:
    if not classes:
        return ""
    if int(number) >= len(classes):
        raise UserError(
            f"{where}: class {number} has no name among {len(classes)} classes; add its name, or "
            "mend the line"
        )

    return classes[int(number)]


def _box(fields: Sequence[str], where: str) -> Box:
    """Return the box of a line: five fields, six with a confidence, or a polygon."""
    try:
        values = [float(field) for field in fields[1:]]
        is_line = NUMBER.fullmatch(fields[0]) is not None
    except ValueError:
        is_line = False

    if not is_line or len(values) < 4 or (len(values) > 5 and len(values) % 2):
        raise UserError(
            f"{where}: the line {' '.join(fields)[:60]!r} is not 'class x y width height'; mend "
            "the line, or move the file to another folder"
        )
    if len(values) > 5:
        across, down = values[0::2], values[1::2]
        if not all(map(math.isfinite, values)):  # min() and max() pass over NaN
            across, down = [math.nan], [math.nan]
        return box_of((min(across), min(down), max(across), max(down)), where)

    x, y, width, height = values[:4]
    return box_of((x - width / 2, y - height / 2, x + width / 2, y + height / 2), where)


def _text(files: Files, name: str, most: int = MAX_BYTES) -> str:
    content = read_bytes(files.root, name, most=most)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{files.root / name}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error
