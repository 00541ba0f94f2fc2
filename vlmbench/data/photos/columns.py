"""Which column of a table holds the photo's path, its label and so on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from vlmbench.data.images import SUFFIXES
from vlmbench.system.text import in_quotes
from vlmbench.types import UserError

# Usual names of columns, in lower case.
USUAL: Mapping[str, tuple[str, ...]] = {
    "path": (
        *("path", "image", "filename", "file_name", "file", "image_path", "filepath", "img"),
        *("image_name", "imagename", "name", "photo", "画像", "ファイル名", "ファイル"),
    ),
    "label": (
        *("label", "class", "target", "result", "judgement", "judgment", "category", "y"),
        *("判定", "ラベル", "結果", "クラス"),
    ),
}
MEANING = re.compile(r"""[,:{}\[\]"']""")  # characters with a meaning in a mapping
ALIASES = {"image": "path"}  # names of vlmbench's own columns that are understood too


@dataclass(frozen=True, slots=True, kw_only=True)
class TableShape:
    """How a table is written: its encoding (None: guessed), and its columns.

    `columns` maps vlmbench's columns to the table's: to their names, or to their numbers from 1 in
    a table without header.
    """

    encoding: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_header(self) -> bool:
        return not self.columns or not all(name.isdecimal() for name in self.columns.values())

    def names_of(self, first: Sequence[str], location: str) -> list[str]:
        """Return the name of each column, from the table's first line.

        Raise UserError for a column that the table does not have.
        """
        if not self.has_header:
            return self._numbered(len(first), location)

        names = [name.casefold() for name in first]
        for own, theirs in self.columns.items():
            if theirs.casefold() not in names:
                raise UserError(
                    f"{location}: source.columns names the column {theirs!r}, which is not among "
                    f"{', '.join(first)[:200]}; set {columns_setting(first)}"
                )

            position = names.index(theirs.casefold())
            wanted = ALIASES.get(own, own)
            names = [f"{name} of the table" if name == wanted else name for name in names]
            names[position] = wanted

        return names

    def _numbered(self, count: int, location: str) -> list[str]:
        names = [f"column {number}" for number in range(1, count + 1)]
        for own, theirs in self.columns.items():
            if not 1 <= int(theirs) <= count:
                raise UserError(
                    f"{location}: source.columns names column {theirs}, but the line has {count} "
                    "fields; set 'source.columns={image: 1, label: 2}'"
                )
            names[int(theirs) - 1] = ALIASES.get(own, own)

        return names


def columns_setting(first: Sequence[str]) -> str:
    """Return source.columns as it can be typed, guessed from a table's first line."""
    columns = guess_columns(first) or {"image": first[0], "label": first[-1]}
    words = [
        f"{own}: {in_quotes(name) if MEANING.search(name) else name}"
        for own, name in columns.items()
    ]
    return shlex.quote(f"source.columns={{{', '.join(words)}}}")


def guess_columns(first: Sequence[str]) -> dict[str, str] | None:
    """Return `columns` for a table whose first line this is; None if it says nothing.

    A line with a photo's name is no header: the label is in the next column.
    """
    image = next((i for i, field in enumerate(first) if _is_image(field)), None)
    if image is not None:
        label = image + 1 if image + 1 < len(first) else 0
        return {"image": str(image + 1), "label": str(label + 1)}

    path, label_name = (_find_usual(own, first) for own in ("path", "label"))
    return {"image": path, "label": label_name} if path and label_name else None


def _is_image(field: str) -> bool:
    return PurePosixPath(field.replace("\\", "/")).suffix.lower() in SUFFIXES


def _find_usual(own: str, first: Sequence[str]) -> str | None:
    names = {name.casefold(): name for name in first}
    return next((names[usual] for usual in USUAL[own] if usual in names), None)
