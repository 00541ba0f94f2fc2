"""Recognise a table of photos with labels, and name the settings that read it."""

from __future__ import annotations

import csv
from itertools import islice

from vlmbench.data.annotations.files import Files, read_bytes
from vlmbench.data.labels import GOOD_WORDS, TYPED_KEYS
from vlmbench.data.photos.columns import TableShape, columns_setting, guess_columns
from vlmbench.data.photos.encodings import decode_table
from vlmbench.data.photos.likely import LIKELY
from vlmbench.data.photos.photo import BAD, GOOD
from vlmbench.data.photos.table import detect_delimiter
from vlmbench.system.text import typed_setting
from vlmbench.types import UserError

MAX_BYTES = 20_000_000  # of a table that is looked at
SAMPLE = 2000  # lines that are looked at
MAX_WORDS = 8  # different labels of a table that is recognised


def find_table(files: Files) -> tuple[str, tuple[str, ...]] | None:
    """Return a table's name and the settings that read it; None without a table of photos."""
    for name in files.with_suffix(".csv", ".tsv"):
        try:
            rows = _read_rows(files, name)
        except (UserError, csv.Error):
            continue

        settings = _settings(rows, name)
        if settings is not None:
            return name, settings

    return None


def _read_rows(files: Files, name: str) -> list[list[str]]:
    content = read_bytes(files.root, name, most=MAX_BYTES)
    text = decode_table(files.root / name, content, None)
    delimiter = detect_delimiter(text.encode("utf-8", "surrogatepass"), ())
    lines = islice(text.splitlines(), SAMPLE)
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    return [[field.strip() for field in row] for row in rows if any(row)]


def _settings(rows: list[list[str]], name: str) -> tuple[str, ...] | None:
    if not rows or len(rows[0]) < 2:
        return None

    first = rows[0]
    columns = guess_columns(first)
    if columns is None:
        return None

    shape = TableShape(columns=columns)
    names = shape.names_of(first, name)
    position = names.index("label")
    body = rows[1:] if shape.has_header else rows
    words = list(dict.fromkeys(row[position] for row in body if len(row) == len(first)))

    is_plain = [field.casefold() for field in first].count("path") and names == [
        field.casefold() for field in first
    ]
    settings = [typed_setting("source.table", name)]
    if not is_plain:
        settings.append(columns_setting(first))

    mapping = _label_mapping(words)
    if mapping is None:
        return None
    return (*settings, *mapping)


def _label_mapping(words: list[str]) -> tuple[str, ...] | None:
    """Return source.labels for the words of a table; None for words that cannot be mapped."""
    if all(word in (GOOD, BAD) or LIKELY.fullmatch(word) for word in words):
        return ()

    labels = {word: GOOD if word.casefold() in GOOD_WORDS else BAD for word in words}
    mapping = ", ".join(f"{word}: {label}" for word, label in labels.items())
    if len(words) > MAX_WORDS or len(set(labels.values())) < 2:
        return None
    return (f"'source.labels={{{mapping}}}'",) if TYPED_KEYS.fullmatch(mapping) else None
