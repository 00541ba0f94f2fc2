"""Looks: each different set of answers counts once, and other seeds make a new look."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.helpers.plans import VARIANTS, ReadRun, plan_of, read_run
from vlmbench.runs.looks import DAMAGED_FILE, LOOKS_FILE, Look, evidence_of, register_look
from vlmbench.runs.plan import read_plan
from vlmbench.runs.planning import start_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Return a sweep that plans both variants with the seeds 0 and 1."""
    start_sweep(tmp_path, plan_of())
    return tmp_path


def runs(seeds: Sequence[int], *, right: int = 3) -> list[ReadRun]:
    return [read_run(data, seed, right=right) for data in VARIANTS for seed in seeds]


def look(sweep: Path, seeds: Sequence[int], *, right: int = 3, question: str = "") -> Look:
    return register_look(sweep, evidence_of(runs(seeds, right=right), question=question))


def test_a_look_at_the_planned_seeds_is_planned(sweep: Path) -> None:
    first = look(sweep, [0, 1])
    assert (first.number, first.planned, first.unknown_before) == (1, True, False)


def test_the_same_answers_are_one_look(sweep: Path) -> None:
    assert look(sweep, [0, 1]) == look(sweep, [0, 1])
    order_changed = register_look(sweep, evidence_of(reversed(runs([0, 1]))))
    assert order_changed.number == 1


def test_each_change_of_the_seeds_is_a_new_look(sweep: Path) -> None:
    early, planned, late = (look(sweep, seeds) for seeds in ([0], [0, 1], [0, 1, 2]))
    assert [one.number for one in (early, planned, late)] == [1, 2, 3]
    assert [one.planned for one in (early, planned, late)] == [False, True, False]
    assert early.changed == ()
    assert len(late.changed) == 2
    assert look(sweep, [0, 1]) == planned  # an old report written again


def test_other_answers_of_the_same_seeds_are_no_new_look(sweep: Path) -> None:
    assert look(sweep, [0, 1]).number == 1
    assert look(sweep, [0, 1], right=2).number == 1
    assert look(sweep, [0, 1, 2]).number == 2


def test_a_seed_of_one_variant_is_a_new_look_that_names_it(sweep: Path) -> None:
    look(sweep, [0, 1])
    more = [*runs([0, 1]), read_run("with_comparison", 2)]
    second = register_look(sweep, evidence_of(more))
    assert (second.number, second.planned) == (2, False)
    assert second.changed == ("smol · with_comparison",)


def test_questions_are_counted_apart(sweep: Path) -> None:
    assert look(sweep, [0], question="a").number == 1
    assert look(sweep, [0, 1], question="b").number == 1
    assert look(sweep, [0, 1], question="a").number == 2


def test_without_a_plan_no_look_is_planned(tmp_path: Path) -> None:
    assert not look(tmp_path, [0, 1]).planned


def test_after_the_list_was_removed_earlier_looks_are_unknown(sweep: Path) -> None:
    look(sweep, [0])
    (sweep / LOOKS_FILE).unlink()
    assert look(sweep, [0, 1]).unknown_before
    assert look(sweep, [0, 1, 2]).unknown_before  # for good


def test_a_shortened_list_is_noticed(sweep: Path) -> None:
    look(sweep, [0])
    before = (sweep / LOOKS_FILE).read_text()
    look(sweep, [0, 1])
    (sweep / LOOKS_FILE).write_text(before)
    assert look(sweep, [0, 1, 2]).unknown_before


def test_without_a_plan_an_old_report_tells_of_a_removed_list(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "verdicts.json").write_text("[]")
    assert not look(tmp_path, [0]).unknown_before

    (tmp_path / LOOKS_FILE).unlink()
    (report / "verdicts.json").write_text('[{"verdict": "better"}]')
    assert look(tmp_path, [0]).unknown_before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"looks": [{"date": 3}]}',
        b'{"looks": 1, "unknown_before": false}',
        b"[" * 100_000,
        b'{"looks": [], "unknown_before": "no"}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_list_is_kept_and_counts_as_removed(sweep: Path, content: bytes) -> None:
    look(sweep, [0])
    (sweep / LOOKS_FILE).write_bytes(content)
    assert look(sweep, [0, 1]).unknown_before
    assert (sweep / DAMAGED_FILE).read_bytes() == content


def test_a_list_without_end_is_not_read(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look(sweep, [0])
    monkeypatch.setattr("vlmbench.runs.looks.MAX_BYTES", 10)
    assert look(sweep, [0, 1]).unknown_before


@pytest.mark.slow
def test_several_processes_lose_no_look(sweep: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        numbers = list(pool.map(_look_at_one, [sweep] * 6, range(6)))

    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]
    plan = read_plan(sweep)
    assert plan is not None
    assert plan.looks == 6


def _look_at_one(sweep: Path, seed: int) -> int:
    return look(sweep, [seed]).number
