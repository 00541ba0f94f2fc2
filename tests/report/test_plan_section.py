"""The section Plan: what was planned, what became of it, and how often it was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.plans import DATE, VARIANTS, ReadRun, plan_of, planned, read_run
from tests.helpers.reports import RunMaker
from vlmbench.config import HeldOut, Primary
from vlmbench.report import comparison_table, write_report
from vlmbench.report.plan import NO_PLAN, plan_facts
from vlmbench.runs.ledger import LedgerRow, append_row, ledger_of
from vlmbench.runs.looks import Look
from vlmbench.runs.plan import Extension, Plan, Question, write_plan
from vlmbench.runs.sweep import SweepDir

LOOK = Look(number=1, planned=True, date=DATE)
ALL = [read_run(data, seed) for data in VARIANTS for seed in (0, 1)]


@pytest.fixture
def sweep_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "s"
    folder.mkdir(parents=True)
    return folder


def sentences(
    folder: Path, plan: Plan | None, runs: Sequence[ReadRun] = ALL, look: Look | None = None
) -> list[str]:
    if plan is not None:
        write_plan(folder, plan)
    return list(plan_facts(folder, runs, look=look).sentences)


def test_a_plan_that_was_kept(sweep_folder: Path) -> None:
    assert sentences(sweep_folder, plan_of()) == [
        "Planned on 2026-11-27: with_comparison against without_comparison, seeds 0 and 1 each, "
        "by balanced accuracy.",
        "All 4 planned runs finished.",
    ]


def test_every_planned_seed_that_did_not_finish_is_accounted_for(sweep_folder: Path) -> None:
    runs = [
        read_run("without_comparison", 0),
        read_run("without_comparison", 1, "stopped"),
        read_run("with_comparison", 0, "failed"),
        read_run("with_comparison", 1, "pruned"),
    ]
    plan = plan_of(planned((*VARIANTS, "single"), (0, 1)))
    assert sentences(sweep_folder, plan, runs)[1] == (
        "1 of 6 planned runs finished. without_comparison: seed 1 was stopped; "
        "with_comparison: seed 0 failed, seed 1 was pruned; "
        "single: seed 0 did not start, seed 1 did not start."
    )


def test_costs_are_a_part_of_the_plan(sweep_folder: Path) -> None:
    plan = plan_of(primary=Primary.cost, cost_miss=10.0, cost_overkill=1.0, prevalence=0.01)
    assert sentences(sweep_folder, plan)[0].endswith(
        "by expected cost (a miss costs 10, overkill 1; 1.0 % of the parts are abnormal)."
    )


def test_extensions_and_other_runs_are_named(sweep_folder: Path) -> None:
    extension = Extension(date="2026-12-01T10:00:00Z", runs=planned(VARIANTS, [2]))
    plan = replace(plan_of(), extensions=(extension,), runs_before=2)
    runs = [*ALL, *(read_run(data, 2) for data in VARIANTS), read_run("single", 0)]
    assert sentences(sweep_folder, plan, runs)[1:] == [
        "The plan is younger than 2 runs of this sweep, so it proves nothing about these.",
        "Added to the plan on 2026-12-01: without_comparison and with_comparison, seed 2 each.",
        "All 6 planned runs finished.",
        "1 run of this sweep is not in the plan.",
    ]


def test_a_search_is_planned_by_its_trials(sweep_folder: Path) -> None:
    question = Question(axis="model.lora.r", values=("choice(8,16)",))
    plan = plan_of((), question=question, trials=20)
    runs = [read_run("single", 0), read_run("single", 1, "pruned")]
    assert sentences(sweep_folder, plan, runs) == [
        "Planned on 2026-11-27: a search of 20 trials over model.lora.r, by balanced accuracy.",
        "The search made 2 runs: 1 finished, 1 pruned.",
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "This is the first look at the answers, with exactly the planned seeds."),
        (
            {"planned": False},
            "This is the first look at the answers, with other seeds than planned.",
        ),
        (
            {"number": 2, "planned": False, "changed": ("with_comparison",)},
            "This is look 2: the seeds of with_comparison changed after the first look. "
            "They are not the planned ones.",
        ),
        (
            {"number": 5, "changed": ("a", "b", "c")},
            "This is look 5: the seeds changed after the 4th look. "
            "They are now exactly the planned ones.",
        ),
    ],
)
def test_looks_are_counted_in_words(
    sweep_folder: Path, given: dict[str, Any], expected: str
) -> None:
    assert sentences(sweep_folder, plan_of(), look=replace(LOOK, **given))[-1] == expected


def test_removed_looks_are_said_to_be_unknown(sweep_folder: Path) -> None:
    look = replace(LOOK, unknown_before=True)
    assert "earlier looks are unknown" in sentences(sweep_folder, plan_of(), look=look)[-1]


def test_runs_on_the_same_test_split_are_counted(sweep_folder: Path) -> None:
    for number, sweep in enumerate(("s", "s", "other")):
        row = LedgerRow(
            test_hash="t",
            run_hash=str(number),
            variant_hash=str(number),
            sweep=sweep,
            run="0_a",
            date=DATE,
            version="1",
            primary="accuracy",
        )
        append_row(ledger_of(sweep_folder), row)
    with ledger_of(sweep_folder).open("a") as file:
        file.write("damaged\n")

    assert sentences(sweep_folder, plan_of(test_hash="t"))[-2:] == [
        "3 runs of 2 sweeps were scored on this test split so far, with 3 configurations.",
        "Damaged lines of ledger.jsonl were not counted: 4.",
    ]


@pytest.mark.parametrize(
    ("reveals", "expected"),
    [
        ((), "The test split is sealed: no test record was answered. "),
        ((DATE,), "The test split was sealed until it was revealed on 2026-11-27."),
        ((DATE, "2026-12-01T00:00:00Z"), "It was revealed 2 times, last on 2026-12-01."),
    ],
)
def test_a_sealed_test_split_is_named(
    sweep_folder: Path, reveals: tuple[str, ...], expected: str
) -> None:
    plan = plan_of(test=HeldOut.sealed, reveals=reveals)
    assert sentences(sweep_folder, plan)[-1].startswith(expected)


def test_a_sweep_without_a_plan_says_so(sweep_folder: Path) -> None:
    assert sentences(sweep_folder, None) == [NO_PLAN]
    first = replace(LOOK, planned=False)
    assert sentences(sweep_folder, None, look=first) == [
        NO_PLAN,
        "This is the first look at the answers.",
    ]
    second = replace(first, number=2, changed=("a",))
    assert sentences(sweep_folder, None, look=second)[-1] == (
        "This is look 2: the seeds of a changed after the first look."
    )


@pytest.mark.slow
def test_page_markdown_and_terminal_have_the_plan(sweep: SweepDir) -> None:
    write_plan(sweep.path, plan_of())
    page = write_report(sweep).read_text(encoding="utf-8")
    markdown = (sweep.report / "report.md").read_text(encoding="utf-8")

    assert "<li>Planned on 2026-11-27: with_comparison against" in page
    assert '<a href="#plan">' in page
    section = markdown.split("## Plan")[1].split("## ")[0]
    assert "Planned on 2026-11-27" in section
    assert "This is the first look" in section
    assert "\nplan\nPlanned on 2026-11-27" in comparison_table(sweep)

    write_report(sweep)  # the same answers again
    assert "This is the first look" in (sweep.report / "report.md").read_text(encoding="utf-8")


def test_validation_figures_of_sealed_runs_stand_apart(make_run: RunMaker) -> None:
    figures = {"value": 0.875, "low": 0.7, "high": 0.95, "n": 40, "n_parts": 20}
    metrics = {
        "scores": {},
        "validation_scores": {"judge_pair": {"raw": {"accuracy": figures}}},
        "test": "sealed",
        "data": {},
        "notes": ["The test split is sealed."],
    }
    run = make_run(0, "without_comparison", metrics=metrics, predictions=None)
    sweep = SweepDir(run.path.parent)
    page = write_report(sweep).read_text(encoding="utf-8")
    markdown = (sweep.report / "report.md").read_text(encoding="utf-8")

    before, _, after = markdown.partition("## Validation figures: the test split is sealed")
    assert "87.5 %" not in before
    assert "87.5 %" in after.split("## Plan")[0]
    assert "87.5 %" not in after.split("## Plan")[1]
    assert page.count("87.5 %") == markdown.count("87.5 %") == 1
    assert not (sweep.path / "looks.json").exists()  # no verdict, no look

    table = comparison_table(sweep)
    assert "judge_pair raw, validation records (test split sealed): %" in table
    assert "held out" not in table
