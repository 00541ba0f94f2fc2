"""JSON and JSON lines of others, row by row: a bad row spoils no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from vlmbench.types import UserError

T = TypeVar("T")
MOST_BYTES = 4_000_000_000


def read_rows(path: Path) -> Iterator[tuple[str, msgspec.Raw]]:
    """Each row's place and its JSON: of a JSON list "a.json: row 7", of JSON lines "a.jsonl:7"."""
    content = read_bytes(path)
    if content.lstrip()[:1] == b"[":
        for number, row in enumerate(decode(content, list[msgspec.Raw], str(path)), start=1):
            yield f"{path}: row {number}", row
        return
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", msgspec.Raw(line)


def read_bytes(path: Path) -> bytes:
    """The file's content without a byte-order mark. Raises UserError for a missing, empty or too large file."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; correct source.path")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path}: the file has more than {MOST_BYTES:,} bytes; split it")
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise UserError(f"{path}: the file is empty; give one with rows")
    return content


def decode(content: bytes | msgspec.Raw, kind: type[T], place: str) -> T:
    """The value of that type. Raises UserError that names the place and what does not fit."""
    try:
        return msgspec.json.decode(content, type=kind)
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UserError(
            f"{place}: {error}; mend it, or see 'Your own pictures' in the README for the format"
        ) from error
