"""Read a CSV file with a line for each photo."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from io import BytesIO, TextIOWrapper
from pathlib import Path

from vlmbench.data.invalid_rows import MAX_INVALID_ROWS, InvalidRow
from vlmbench.data.lines import read_error
from vlmbench.data.paths import is_plain_file, normal_text
from vlmbench.data.photos.columns import TableShape, columns_setting
from vlmbench.data.photos.encodings import decode_table
from vlmbench.system.text import typed_setting
from vlmbench.types import UserError

DELIMITERS = ",;\t|"
MAX_BYTES = 100_000_000
MAX_COLUMNS = 1000
MAX_HEADER = 1_000_000  # characters
ENCODING = "utf-8"
AS_WRITTEN = TableShape()  # the columns have vlmbench's names


def read_table(
    path: Path,
    *,
    required: tuple[str, ...],
    invalid_rows: list[InvalidRow],
    shape: TableShape = AS_WRITTEN,
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each line's location ("labels.csv:7") and its fields by column.

    Fields are in NFC, without spaces at their ends.

    `shape` says which columns and which encoding the file has; the encoding may be guessed. The
    delimiter is detected. Lines that do not match the header are added to `invalid_rows`, and
    reading stops when it has MAX_INVALID_ROWS. Raise UserError if the file cannot be read, has no
    lines, or lacks one of the `required` columns.
    """
    header: list[str] | None = None
    num_lines = 0

    for location, fields in _read_lines(path, required, shape):
        if header is None:
            header = _read_header(fields, location, required, shape)
            if shape.has_header:
                continue

        if len(invalid_rows) >= MAX_INVALID_ROWS:
            return
        num_lines += 1
        reason = _line_error(header, fields)
        if reason is None:
            yield location, dict(zip(header, fields, strict=True))
        else:
            invalid_rows.append(InvalidRow(location=location, reason=reason))

    if header is None:
        raise UserError(
            f"{path}: the file is empty; write a header with the columns {', '.join(required)}, "
            "then one line for each photo"
        )
    if num_lines == 0:
        raise UserError(f"{path}: no line follows the header; write one line for each photo")


def _read_lines(
    path: Path, required: Sequence[str], shape: TableShape
) -> Iterator[tuple[str, list[str]]]:
    """Yield the location and the stripped fields of each line that is not blank."""
    content = _read_content(path, shape.encoding)
    reader = csv.reader(
        TextIOWrapper(BytesIO(content), encoding=ENCODING, newline=""),
        delimiter=detect_delimiter(content, required),
        strict=True,
        skipinitialspace=True,
    )

    try:
        for line in reader:
            fields = [normal_text(field.strip()) for field in line]
            if any(fields):
                yield f"{path}:{reader.line_num}", fields
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num}: {error}; fix the line, or save the file as CSV again"
        ) from error


def _read_content(path: Path, encoding: str | None) -> bytes:
    """Return the file's text as UTF-8."""
    if not is_plain_file(path):
        tables: list[str] = []
        with suppress(OSError, ValueError):
            tables = sorted(file.name for file in path.parent.glob("*.csv"))
        closest = (get_close_matches(path.name, tables, n=1) or tables or ["null"])[0]
        raise UserError(
            f"{path}: the file does not exist; set {typed_setting('source.table', closest)}"
        )

    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(
            f"{path}: the file has {size:,} bytes, at most {MAX_BYTES:,} are allowed; keep only "
            "the columns of photos and labels"
        )

    try:
        content = path.read_bytes()
    except OSError as error:
        raise read_error(path, error) from error

    return decode_table(path, content, encoding).encode("utf-8", "surrogatepass")


def detect_delimiter(content: bytes, required: Sequence[str]) -> str:
    """Return the delimiter that divides the header into the required columns.

    Otherwise return the delimiter that is most frequent in the header. csv.Sniffer needs minutes
    for 60 kB of quotes and commas.
    """
    text = content[: 4 * MAX_HEADER].decode(ENCODING, errors="ignore")
    header = next((line for line in text.splitlines() if line.strip()), "")[:MAX_HEADER]

    for delimiter in DELIMITERS:
        names = [name.strip(' "').casefold() for name in header.split(delimiter)]
        if required and all(name in names for name in required):
            return delimiter

    best = max(DELIMITERS, key=header.count)
    return best if best in header or len(header.split()) < 2 else " "


def _line_error(header: list[str], fields: list[str]) -> str | None:
    """Return why a line does not match the header. Return None for a valid line."""
    if len(fields) != len(header):
        return (
            f"the line has {len(fields)} fields, the header has {len(header)}; add the missing "
            "fields, or put quotes around fields that contain the delimiter"
        )

    for name, field in zip(header, fields, strict=True):
        if not field.isprintable():
            return f"{name} {field[:60]!r} has control characters; remove them"

    return None


def _read_header(
    fields: list[str], location: str, required: tuple[str, ...], shape: TableShape
) -> list[str]:
    names = shape.names_of(fields, location)
    if len(names) > MAX_COLUMNS:
        raise UserError(
            f"{location}: the header has {len(names)} columns, the limit is {MAX_COLUMNS}; keep "
            f"the columns {', '.join(required)}, and few others"
        )

    for name in required:
        if name not in names:
            raise UserError(
                f"{location}: no column {name!r} among {', '.join(fields)[:200]}; add the column "
                f"name {name!r} to the header, or set {columns_setting(fields)}"
            )

    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{location}: column {name[:60]!r} occurs twice; give each column its own name"
            )

    return names
