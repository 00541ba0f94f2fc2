"""Pascal VOC: an XML file for each photo, with a box for each object.

Example: <annotation><size><width>200</width><height>200</height></size><object><name>crazing</name>
<bndbox><xmin>2</xmin>...</bndbox></object></annotation>. An XML file without objects says that its
photo is without defect.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from xml.parsers import expat

from vlmbench.data.annotations.files import Files, PhotoIndex, read_bytes
from vlmbench.data.annotations.marks import (
    Mark,
    Reading,
    box_of,
    read_each,
    refuse_many,
    word_of,
)
from vlmbench.data.images import image_size
from vlmbench.types import UserError

MAX_BYTES = 10_000_000  # of a file
MAX_DEPTH = 30  # of nested elements
ROOT = "annotation"
OBJECT = f"{ROOT}/object"
EDGES = ("xmin", "ymin", "xmax", "ymax")

Item = dict[str, str]  # an object's elements by their path in it, such as "bndbox/xmin"


def read_voc(files: Files) -> Reading:
    """Return the boxes of all XML files. Raise UserError with all files that cannot be read."""
    names, index = files.with_suffix(".xml"), PhotoIndex(files.images)
    return read_each(names, "XML", index.find, partial(_read_file, files))


def is_voc(content: bytes) -> bool:
    """Return whether an XML file is an annotation of Pascal VOC."""
    try:
        parse_objects(content, "")
    except UserError:
        return False
    return True


def _read_file(files: Files, name: str, photo: str) -> list[Mark]:
    where = str(files.root / name)
    content = read_bytes(files.root, name, most=MAX_BYTES)
    items, size = parse_objects(content, where)
    if not items:
        return []

    width, height = _size(size) or image_size(files.root / photo, inside=files.root)
    found: list[Mark] = []
    for item in items:
        values = [_number(item, f"bndbox/{edge}", where) for edge in EDGES]
        shares = [value / (width, height)[i % 2] for i, value in enumerate(values)]
        found.append(
            Mark(
                word=word_of(item.get("name", ""), where),
                box=box_of(shares, where),
            )
        )

    return found


def _size(size: Item) -> tuple[float, float] | None:
    """Return (width, height) as the file says; None if it does not say."""
    try:
        width, height = float(size["width"]), float(size["height"])
    except (KeyError, ValueError):
        return None
    return (width, height) if 0 < width < 1e6 and 0 < height < 1e6 else None


def _number(item: Item, key: str, where: str) -> float:
    try:
        return float(item[key])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{where}: {key} of an object must be a number, got {item.get(key, '')[:40]!r}; mend "
            "the file"
        ) from error


def parse_objects(content: bytes, where: str) -> tuple[list[Item], Item]:
    """Return the objects of an annotation and its size.

    Raise UserError for a file that is no XML or no annotation. Document types and entities are
    refused: they can exhaust memory, or read other files.
    """
    reader = _Reader(where)
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.EntityDeclHandler = reader.refuse

    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise UserError(f"{where}: the file is no valid XML ({error}); mend the file") from error

    if not reader.is_annotation:
        raise UserError(
            f"{where}: the XML file does not begin with <{ROOT}>; move other XML files to another "
            "folder"
        )
    return reader.items, reader.size


class _Reader:
    """Collects the objects and the size while expat reads."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.items: list[Item] = []
        self.size: Item = {}
        self.is_annotation = False
        self._path: list[str] = []
        self._text: list[str] = []  # a file may have its text in a million pieces

    def start(self, name: str, attributes: Any) -> None:
        self._path.append(name)
        self._text = []
        if len(self._path) > MAX_DEPTH:
            raise UserError(f"{self.where}: elements are nested too deeply; mend the file")

        path = "/".join(self._path)
        self.is_annotation |= path == ROOT
        if path == OBJECT:
            self.items.append({})
            refuse_many(len(self.items), self.where)

    def text(self, data: str) -> None:
        self._text.append(data)

    def end(self, name: str) -> None:
        path = "/".join(self._path)
        value = "".join(self._text).strip()
        if path.startswith(f"{OBJECT}/"):
            self.items[-1][path.removeprefix(f"{OBJECT}/")] = value
        elif path.startswith(f"{ROOT}/size/"):
            self.size[path.removeprefix(f"{ROOT}/size/")] = value

        self._path.pop()
        self._text = []

    def refuse(self, *declaration: Any) -> None:
        raise UserError(
            f"{self.where}: the XML file declares a document type or entities, which can exhaust "
            "memory; remove the declaration"
        )
