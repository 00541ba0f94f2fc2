"""The ledger of test splits: it counts, it survives damage, and it stops no run."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.helpers.plans import DATE
from vlmbench.runs.ledger import LedgerRow, append_row, count_scored, ledger_of, read_ledger


def row(run: str = "0", sweep: str = "s", test: str = "t", variant: str = "v") -> LedgerRow:
    return LedgerRow(
        test_hash=test,
        run_hash=run,
        variant_hash=variant,
        sweep=sweep,
        run=f"{run}_x",
        date=DATE,
        version="0.1.0",
        primary="balanced_accuracy",
        value=0.75,
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "ledger.jsonl"


def test_a_row_comes_back_as_it_was(ledger: Path) -> None:
    append_row(ledger, row())
    assert read_ledger(ledger) == ([row()], ())


def test_runs_configurations_and_sweeps_of_one_test_split_are_counted(ledger: Path) -> None:
    for one in (
        row("0"),
        row("0"),  # evaluated again
        row("1"),
        row("2", variant="w"),
        row("0", sweep="other"),
        row("3", test="another split"),
    ):
        append_row(ledger, one)
    scored = count_scored(ledger, "t")
    assert (scored.runs, scored.configurations, scored.sweeps) == (4, 2, 2)


def test_a_ledger_lies_beside_its_sweeps(tmp_path: Path) -> None:
    assert ledger_of(tmp_path / "runs" / "s") == tmp_path / "runs" / "ledger.jsonl"
    scored = count_scored(tmp_path / "none", "t")
    assert (scored.runs, scored.damaged) == (0, ())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"not json",
        b'{"test_hash": 1}',
        b"[" * 15_000,
        b"x" * 100_000,
        b"\xff\xfe\x00",
        b'{"test_hash": "t", "value": NaN}',
    ],
)
def test_a_damaged_line_is_named_and_costs_no_other(ledger: Path, line: bytes) -> None:
    append_row(ledger, row("0"))
    with ledger.open("ab") as file:
        file.write(line + b"\n")
    append_row(ledger, row("1"))
    assert read_ledger(ledger) == ([row("0"), row("1")], (2,))


def test_a_line_cut_short_by_a_crash_does_not_swallow_the_next(ledger: Path) -> None:
    append_row(ledger, row("0"))
    with ledger.open("ab") as file:
        file.write(b'{"test_hash": "t", "ru')
    append_row(ledger, row("1"))
    assert read_ledger(ledger) == ([row("0"), row("1")], (2,))


def test_a_ledger_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    append_row(tmp_path / "ledger.jsonl", row())
    assert "the line of run 0_x cannot be written" in caplog.text
    assert count_scored(tmp_path / "ledger.jsonl", "t").runs == 0


@pytest.mark.slow
def test_several_processes_lose_no_line(ledger: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(_append_many, [ledger] * 4, "abcd"))
    rows, damaged = read_ledger(ledger)
    assert damaged == ()
    assert len({one.run_hash for one in rows}) == len(rows) == 80


def _append_many(ledger: Path, name: str) -> None:
    for number in range(20):
        append_row(ledger, row(f"{name}{number}"))
