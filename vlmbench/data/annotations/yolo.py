"""YOLO: a text file for each photo, with a line "class x y width height" for each box.

x and y are the box's centre. All lengths are shares of the photo. A polygon "class x1 y1 x2 y2 ..."
is read as its box. An empty text file says that its photo is without defect. Class names stand in
classes.txt, obj.names or data.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import yaml

from vlmbench.data.annotations.files import Files, PhotoIndex, read_bytes, suffix_of
from vlmbench.data.annotations.marks import Box, Mark, Reading, box_of, read_each, word_of
from vlmbench.types import UserError

MAX_BYTES = 10_000_000  # of a file
NAMES = ("classes.txt", "obj.names", "predefined_classes.txt")
YAMLS = (".yaml", ".yml")
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
            lines = _text(files, name).splitlines()
            found = [word_of(line, str(files.root / name)) for line in lines]
            while found and not found[-1]:
                found.pop()
            return found

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
    where = str(files.root / name)
    try:
        content = yaml.safe_load(_text(files, name))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{where}: the file is no valid yaml; mend the file") from error

    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        numbers = [number for number in names if isinstance(number, int)]
        names = [names.get(number, "") for number in range(max(numbers, default=-1) + 1)][:10_000]
    if not isinstance(names, list):
        return []
    return [word_of(word, where) for word in names if isinstance(word, str)]


def _read_file(files: Files, name: str, classes: Sequence[str]) -> list[Mark]:
    found: list[Mark] = []
    for number, line in enumerate(_text(files, name).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue

        where = f"{files.root / name}:{number}"
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
        is_line = fields[0].isascii() and fields[0].isdigit() and len(fields[0]) < 7
    except ValueError:
        is_line = False

    if not is_line or len(values) < 4 or (len(values) > 5 and len(values) % 2):
        raise UserError(
            f"{where}: the line {' '.join(fields)[:60]!r} is not 'class x y width height'; mend "
            "the line, or move the file to another folder"
        )
    if len(values) > 5:
        across, down = values[0::2], values[1::2]
        return box_of((min(across), min(down), max(across), max(down)), where)

    x, y, width, height = values[:4]
    return box_of((x - width / 2, y - height / 2, x + width / 2, y + height / 2), where)


def _text(files: Files, name: str) -> str:
    content = read_bytes(files.root, name, most=MAX_BYTES)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{files.root / name}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error
