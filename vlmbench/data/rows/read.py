"""Read JSON and JSON lines row by row, so that an invalid row does not hide the others."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import msgspec

from vlmbench.data.lines import BOM, MAX_LINE, read_error
from vlmbench.data.paths import is_plain_file, path_cure
from vlmbench.types import UserError

T = TypeVar("T")
MAX_BYTES = 500_000_000  # the file is read into memory


def read_rows(path: Path) -> Iterator[tuple[str, msgspec.Raw]]:
    """Yield each row's location and its JSON.

    The location in a JSON list is "a.json: row 7", in JSON lines "a.jsonl:7".
    """
    content = read_bytes(path)
    if content.lstrip()[:1] == b"[":
        rows = decode(content, list[msgspec.Raw], str(path))
        for number, row in enumerate(rows, start=1):
            yield f"{path}: row {number}", row
        return

    for number, line in enumerate(BytesIO(content), start=1):
        if len(line) > MAX_LINE:
            raise UserError(
                f"{path}:{number}: the line is too long, the limit is {MAX_LINE} bytes; shorten it"
            )
        if line.strip():
            yield f"{path}:{number}", msgspec.Raw(line)


def read_bytes(path: Path) -> bytes:
    """Return the file's content without a byte-order mark.

    Raise UserError if the file does not exist, is empty, or has more than MAX_BYTES.
    """
    if not is_plain_file(path):
        cure = path_cure(
            "source.path", path, is_folder=False, otherwise="fix the path, or add the file"
        )
        raise UserError(f"source.path={path}: the file does not exist; {cure}")

    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(
            f"source.path={path}: the file has {size:,} bytes, at most {MAX_BYTES:,} are allowed; "
            "split it into several files"
        )

    try:
        content = path.read_bytes().removeprefix(BOM)
    except OSError as error:
        raise read_error(path, error) from error
    if not content.strip():
        raise UserError(f"source.path={path}: the file is empty; write rows into it")

    return content


def decode(content: bytes | msgspec.Raw, kind: type[T], location: str) -> T:
    """Return the JSON as a value of the type `kind`.

    Raise UserError with the location and the reason if it is not such a value.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{location}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UserError(
            f"{location}: {error}; fix the row, or see docs/how-to/bring-your-data.md for "
            "the format"
        ) from error
