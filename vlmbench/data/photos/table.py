"""A CSV file with a line for each photo."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from vlmbench.data.wrongs import Misfit
from vlmbench.types import UserError

DELIMITERS = ",;\t|"
SAMPLE = 64_000  # characters that the delimiter is told from
MOST_BYTES = 200_000_000


def read_table(path: Path, *, required: tuple[str, ...], misfits: list[Misfit]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each line's place ("labels.csv:7") and its fields by column, spaces around them taken away.

    UTF-8, with or without a byte-order mark; the delimiter is told from the file. Lines that do not fit the header go
    to `misfits`. Raises UserError where the file cannot be read, has no line, or lacks a required column.
    """
    text = _text(path)
    reader = csv.reader(StringIO(text, newline=""), delimiter=_delimiter(text), strict=True, skipinitialspace=True)
    header: list[str] | None = None
    lines = 0
    try:
        for fields in reader:
            place = f"{path}:{reader.line_num}"
            fields = [field.strip() for field in fields]
            if not any(fields):
                continue
            if header is None:
                header = _header(fields, place, required)
                continue
            lines += 1
            why = _why_not(header, fields)
            if why is None:
                yield place, dict(zip(header, fields, strict=True))
            else:
                misfits.append(Misfit(place=place, why=why))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}; mend the line, or save the file as CSV again") from error
    if header is None:
        raise UserError(f"{path}: the file is empty; write a header with {', '.join(required)} and a line a photo")
    if not lines:
        raise UserError(f"{path}: no line follows the header; write a line a photo")


def _text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; correct source.table")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path}: the file has more than {MOST_BYTES:,} bytes; give one of photos and labels alone")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as 'CSV UTF-8'") from error


def _delimiter(text: str) -> str:
    """As csv.Sniffer tells it where the header agrees; else the delimiter that the header has most of."""
    header = text.lstrip().partition("\n")[0]
    try:
        found = csv.Sniffer().sniff(text[:SAMPLE], delimiters=DELIMITERS).delimiter
    except csv.Error:
        found = ""
    return found if found and found in header else max(DELIMITERS, key=header.count)


def _why_not(header: list[str], fields: list[str]) -> str | None:
    """Why a line does not fit; None: it does."""
    if len(fields) != len(header):
        return f"{len(fields)} fields, the header has {len(header)}; add what is missing, quote fields with a delimiter"
    for name, field in zip(header, fields, strict=True):
        if not field.isprintable():
            return f"{name} {field[:60]!r} has control characters; take them out"
    return None


def _header(fields: list[str], place: str, required: tuple[str, ...]) -> list[str]:
    names = [field.casefold() for field in fields]
    for name in required:
        if name not in names:
            raise UserError(f"{place}: no column {name!r} among {', '.join(fields)[:200]}; name the columns in line 1")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{place}: column {name[:60]!r} stands there twice; give each column a name of its own")
    return names
