"""The lines of a file that somebody may change while a run reads it.

The file is not mapped: when a mapped file is cut, the process that reads it dies without a word.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from array import array
from collections.abc import Iterator
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from vlmbench.types import UserError

MAX_LINE = 1_000_000  # bytes
BOM = b"\xef\xbb\xbf"  # some editors begin a file with it


class LineFile:
    """An open file whose lines are read twice: all in a scan, then single ones by position.

    The scan remembers a hash of each kept line (8 bytes). A line that changed later is an error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = _open_for_reading(path)
        weakref.finalize(self, os.close, self._number)

        self._starts, self._sizes = array("q"), array("i")
        self._lines, self._hashes = array("i"), array("Q")
        self._digest = hashlib.sha256()
        self._current = (0, 0, b"")  # line number, start, content

    def __len__(self) -> int:
        return len(self._starts)

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """Yield each line that is not blank, with its number from 1. A long line is cut.

        A line with more than MAX_LINE bytes comes with MAX_LINE + 1 bytes.
        """
        with FileIO(self._number, closefd=False) as raw, BufferedReader(raw) as file:
            start = number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                self._digest.update(line)
                size = len(line) + self._skip_rest(file, line)

                content = line.removeprefix(BOM) if start == 0 else line
                if content.strip():
                    self._current = (number, start + len(line) - len(content), content)
                    yield number, content
                start += size

    def keep(self) -> None:
        """Remember the line that `scan` yielded last, so that `read` can return it."""
        number, start, content = self._current
        self._lines.append(number)
        self._starts.append(start)
        self._sizes.append(len(content))
        self._hashes.append(xxhash.xxh3_64_intdigest(content))

    @property
    def nbytes(self) -> int:
        """Return the bytes of memory that the kept lines take."""
        columns = (self._starts, self._sizes, self._lines, self._hashes)
        return sum(len(column) * column.itemsize for column in columns)

    def line_number(self, index: int) -> int:
        """Return the number of the kept line `index` in the file, from 1."""
        return self._lines[index]

    def read(self, index: int) -> bytes:
        """Return the kept line `index`. Raise UserError if it is not as the scan found it."""
        content = _read_at(self._number, self._sizes[index], self._starts[index])
        if xxhash.xxh3_64_intdigest(content) != self._hashes[index]:
            raise changed_error(self.path)

        return content

    def digest(self) -> Any:
        """Return the SHA-256 object of all bytes that the scan read, to be continued."""
        return self._digest.copy()

    def _skip_rest(self, file: BinaryIO, line: bytes) -> int:
        """Read on to the end of a line that was cut. Return the number of bytes."""
        skipped = 0
        while len(line) > MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE + 1)
            if not line:
                break

            self._digest.update(line)
            skipped += len(line)
            if line.endswith(b"\n"):
                break
            line = line.ljust(MAX_LINE + 1)

        return skipped


def changed_error(path: Path) -> UserError:
    """Return the error for a file that changed after the run had read it."""
    return UserError(
        f"{path}: the file was changed while the run read it, and its figures would be of mixed "
        "data; put the old file back, or wait until the file is complete, then start the command "
        "again"
    )


def read_error(path: Path, error: OSError) -> UserError:
    """Return the error for a file that cannot be opened or read."""
    return UserError(
        f"{path}: the file cannot be read ({error.strerror or error}); "
        "allow reading it (chmod u+r), or copy it to another disk"
    )


def _open_for_reading(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise read_error(path, error) from error


def _read_at(number: int, size: int, start: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(number, size, start)

    os.lseek(number, start, os.SEEK_SET)  # Windows
    return os.read(number, size)
