"""The ledger: one line for each run that was scored on a test split, for all sweeps of a folder.

Whoever tries many configurations on one test split finds a good one by chance. So the report says
how many were scored on it. A ledger never stops a run, and a damaged line costs no other line.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import msgspec
from filelock import Timeout
from msgspec import Meta

from vlmbench.runs.folder import to_json
from vlmbench.runs.plan import Date, Text
from vlmbench.system.locks import hold
from vlmbench.system.reading import UnreadableError, exists, open_regular, open_to_append

log = logging.getLogger(__name__)

LEDGER_FILE = "ledger.jsonl"
LOCK_FILE = ".ledger.lock"
PATIENCE_S = 10.0
MAX_LINE = 20_000  # bytes
MAX_BYTES = 500_000_000
MAX_NAMED = 5  # damaged lines in a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """A run that was scored on a test split. `value` is its primary figure, where it has one."""

    test_hash: Text
    run_hash: Text
    variant_hash: Text
    sweep: Text
    run: Text
    date: Date
    version: Text
    primary: Text
    value: Annotated[float, Meta(ge=-1e300, le=1e300)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The counts of what was scored on one test split.

    `damaged` has the numbers of the ledger's unreadable lines; the first line is 1.
    """

    configurations: int
    runs: int
    sweeps: int
    damaged: tuple[int, ...] = ()


def ledger_of(sweep: Path) -> Path:
    """Return the ledger of a sweep: it lies beside the sweeps of a folder."""
    return sweep.resolve().parent / LEDGER_FILE


def append_row(path: Path, row: LedgerRow) -> None:
    """Append a line. A ledger that cannot be written costs a warning, and never a run."""
    line = to_json(msgspec.to_builtins(row), indent=None).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            hold(path.with_name(LOCK_FILE), timeout=PATIENCE_S),
            open_to_append(path) as file,
        ):
            file.write(_missing_newline(_file_end(file)) + line)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, Timeout, NotImplementedError) as error:  # some disks know no locks
        log.warning(
            "%s: the line of run %s cannot be written (%s); counts of scored runs will lack it",
            path,
            row.run,
            error,
        )


def _file_end(file: IO[bytes]) -> bytes:
    """Return the last byte of a file; b"" of an empty one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    return file.read(1)


def read_ledger(path: Path) -> tuple[list[LedgerRow], tuple[int, ...]]:
    """Return the rows of a ledger, and the numbers of the lines that are damaged."""
    rows, damaged = [], []
    for number, line in _lines(path):
        try:
            rows.append(_decode_row(line))
        except (ValueError, RecursionError):
            damaged.append(number)
    return rows, tuple(damaged)


def count_scored(path: Path, test_hash: str) -> Scored:
    """Return how many configurations, runs and sweeps were scored on a test split.

    A run that was evaluated again counts once.
    """
    rows, damaged = read_ledger(path)
    same = [row for row in rows if row.test_hash == test_hash]
    return Scored(
        configurations=len({row.variant_hash for row in same}),
        runs=len({(row.sweep, row.run_hash) for row in same}),
        sweeps=len({row.sweep for row in same}),
        damaged=damaged,
    )


def _missing_newline(end: bytes) -> bytes:
    """Return what must stand before a new line: a crash may have cut the last one short."""
    return b"" if end in (b"", b"\n") else b"\n"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of each line, too long ones cut."""
    if not exists(path):
        return

    try:
        with open_regular(path, limit=MAX_BYTES) as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                yield number, line
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE)
    except (OSError, UnreadableError) as error:
        log.warning("%s: the ledger cannot be read (%s)", path, error)


def _decode_row(line: bytes) -> LedgerRow:
    if not line.endswith(b"\n"):
        raise ValueError("the line is cut short")
    return msgspec.json.decode(line, type=LedgerRow)
