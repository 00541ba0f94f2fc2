"""The plan of a sweep: written once, extended later, and compared with what was made."""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.helpers.plans import VARIANTS, ReadRun, plan_of, planned, read_run
from vlmbench.config import HeldOut, Primary
from vlmbench.runs.plan import (
    PlannedRun,
    Question,
    answer_overrides,
    planned_runs,
    question_of,
    read_plan,
    unplanned_runs,
    variant_hash,
    variant_hash_of,
    write_plan,
)
from vlmbench.runs.planning import add_reveal, set_test_hash, start_sweep
from vlmbench.types import UserError


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    plan = plan_of(
        primary=Primary.cost,
        cost_miss=10.0,
        cost_overkill=1.0,
        prevalence=0.01,
        test=HeldOut.sealed,
        test_hash="ab",
    )
    assert read_plan(tmp_path) is None
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan


def test_the_same_command_again_keeps_the_plan(tmp_path: Path) -> None:
    first = start_sweep(tmp_path, plan_of())
    again = start_sweep(tmp_path, replace(plan_of(), date="2026-12-01T00:00:00+00:00"))
    assert again == first == read_plan(tmp_path)


def test_more_seeds_and_variants_become_extensions_with_their_date(tmp_path: Path) -> None:
    start_sweep(tmp_path, plan_of())
    later = plan_of(planned((*VARIANTS, "matched_control"), (0, 1, 2)), date="2026-12-01T10:00:00Z")
    plan = start_sweep(tmp_path, later)

    (extension,) = plan.extensions
    assert extension.date == "2026-12-01T10:00:00Z"
    assert [(run.data, run.seed) for run in extension.runs] == [
        *((data, 2) for data in VARIANTS),
        *(("matched_control", seed) for seed in (0, 1, 2)),
    ]
    assert plan.runs == planned()
    assert plan.seeds(planned()[0].variant_hash) == (0, 1)
    assert start_sweep(tmp_path, later) == plan  # known now


def test_a_single_run_asks_nothing_until_there_is_a_second_one(tmp_path: Path) -> None:
    one = start_sweep(tmp_path, plan_of(planned(["with_comparison"], [0])))
    assert one.question == Question(
        axis="data", values=("with_comparison",), baseline="without_comparison"
    )
    two = start_sweep(tmp_path, plan_of(planned(["without_comparison"], [0])))
    assert two.question.values == ("with_comparison", "without_comparison")


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ({"primary": Primary.auroc}, "eval.primary=balanced_accuracy"),
        (
            {"primary": Primary.cost, "cost_miss": 10.0, "cost_overkill": 1.0},
            "eval.primary=balanced_accuracy eval.cost_miss=null eval.cost_overkill=null",
        ),
        ({"prevalence": 0.1}, "eval.prevalence=null"),
        ({"test": HeldOut.sealed}, "eval.test=open"),
    ],
)
def test_another_primary_figure_or_cost_is_refused(
    tmp_path: Path, given: dict[str, object], cure: str
) -> None:
    start_sweep(tmp_path, plan_of())
    with pytest.raises(UserError, match=re.escape(f"set {cure}, or start another sweep")):
        start_sweep(tmp_path, plan_of(**given))
    assert read_plan(tmp_path) == plan_of()


def test_runs_that_were_there_before_are_counted(tmp_path: Path) -> None:
    (tmp_path / "0_a").mkdir()
    (tmp_path / "0_a" / "status.json").write_text("{}")
    assert start_sweep(tmp_path, plan_of()).runs_before == 1


def test_a_search_is_extended_by_more_trials(tmp_path: Path) -> None:
    question = Question(axis="model.lora.r", values=("choice(8,16)",))
    search = plan_of((), question=question, trials=3)
    start_sweep(tmp_path, search)
    assert start_sweep(tmp_path, search).extensions == ()
    plan = start_sweep(tmp_path, replace(search, trials=5))
    assert (plan.trials, plan.all_trials) == (3, 5)
    assert [extension.trials for extension in plan.extensions] == [5]


def test_each_planned_run_has_a_state() -> None:
    runs = [
        read_run("without_comparison", 0),
        read_run("without_comparison", 1, "running"),
        read_run("with_comparison", 0, "failed"),
        read_run("single", 0),
    ]
    plan = plan_of(planned(seeds=(0, 1, 2)))
    assert [tuple(one)[:3] for one in planned_runs(plan, runs)] == [
        ("without_comparison", 0, "finished"),
        ("without_comparison", 1, "running"),
        ("without_comparison", 2, "missing"),
        ("with_comparison", 0, "failed"),
        ("with_comparison", 1, "missing"),
        ("with_comparison", 2, "missing"),
    ]
    assert unplanned_runs(plan, runs) == [runs[3]]


def test_a_search_lists_the_runs_that_it_made() -> None:
    plan = plan_of((), question=Question(axis="a", values=("choice(1,2)",)), trials=9)
    runs = [read_run("single", 0, "pruned"), read_run("single", 1)]
    assert [tuple(one)[:3] for one in planned_runs(plan, runs)] == [
        ("single", 0, "pruned"),
        ("single", 1, "finished"),
    ]
    assert unplanned_runs(plan, runs) == []


def test_a_variant_is_named_by_what_differs() -> None:
    both = [*planned(), *planned(model="phi3")]
    assert plan_of(both).label(both[0]) == "smol · without_comparison"
    assert plan_of().label(planned()[0]) == "without_comparison"

    rates = [_with_overrides(f"trainer.learning_rate={rate}", "eval.limit=8") for rate in (1, 2)]
    assert [plan_of(rates).label(run) for run in rates] == [
        "trainer.learning_rate=1",
        "trainer.learning_rate=2",
    ]


def test_the_question_is_what_differs() -> None:
    assert question_of(planned()) == Question(
        axis="data", values=VARIANTS, baseline="without_comparison"
    )
    rates = [_with_overrides(f"trainer.learning_rate={rate}") for rate in (1, 2)]
    assert question_of(rates) == Question(
        axis="trainer.learning_rate", values=("1", "2"), baseline="1"
    )
    models = [*planned(["single"]), *planned(["single"], model="phi3")]
    assert question_of(models) == Question(axis="model", values=("smol", "phi3"), baseline="smol")


def test_only_what_answers_depend_on_tells_variants_apart() -> None:
    config = {"seed": 0, "stage": "run", "eval": {"limit": 8, "primary": "auto", "test": "open"}}
    other = {"seed": 1, "stage": "train", "eval": {"limit": 8, "primary": "cost", "test": "sealed"}}
    third = {"seed": 0, "eval": {"limit": 9}}
    first = variant_hash(config, model="m", data="d")
    assert first == variant_hash(other, model="m", data="d")
    assert first != variant_hash(third, model="m", data="d")
    assert first != variant_hash(config, model="m", data="e")

    given = ["experiment=quick", "data=x", "seed=1", "eval.test=sealed", "hydra.sweep.dir=a"]
    assert answer_overrides([*given, "tracking.mode=off", "sweep=a", "+view=rt"]) == ("+view=rt",)


def test_settings_of_strangers_have_a_hash_too() -> None:
    circle: list[object] = []
    circle.append(circle)
    for config in ({1: "a", "b": 2}, {"a": circle}, {"eval": [1]}):
        assert len(variant_hash(config, model="m", data="d")) == 64


def test_a_long_override_is_cut() -> None:
    (override,) = answer_overrides([f"source.labels={'x' * 5000}"])
    assert len(override) == 1000


def test_the_test_split_and_reveals_are_filled_in(tmp_path: Path) -> None:
    set_test_hash(tmp_path, "ab")  # without a plan there is nothing to fill
    assert read_plan(tmp_path) is None

    start_sweep(tmp_path, plan_of())
    set_test_hash(tmp_path, "ab")
    set_test_hash(tmp_path, "cd")
    add_reveal(tmp_path)
    plan = read_plan(tmp_path)
    assert plan is not None
    assert plan.test_hash == "ab"
    assert len(plan.reveals) == 1


@pytest.mark.slow
def test_several_processes_write_one_plan_with_all_their_runs(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(_start, [tmp_path] * 6, range(6)))

    plan = read_plan(tmp_path)
    assert plan is not None
    assert len(plan.runs) == 1
    assert sorted(run.seed for run in plan.all_runs) == list(range(6))


def _start(sweep: Path, seed: int) -> None:
    start_sweep(sweep, plan_of(planned(["single"], [seed])))


def _with_overrides(*overrides: str) -> PlannedRun:
    return PlannedRun(
        model="smol", data="single", seed=0, variant_hash=str(overrides), overrides=overrides
    )


def test_each_fold_of_a_plan_is_accounted_for(tmp_path: Path) -> None:
    (run,) = planned(["with_comparison"], [0])
    runs = [replace(run, fold=fold, variant_hash="ab") for fold in range(3)]
    write_plan(tmp_path, plan_of(runs))
    plan = read_plan(tmp_path)
    assert plan is not None
    assert plan.seeds("ab") == (0,)
    assert [state.fold for state in planned_runs(plan, [])] == [0, 1, 2]

    config = {"data": {"folds": 3, "fold": 1}}
    status = {"model": "smol", "data": "with_comparison", "seed": 0, "state": "finished"}
    made = ReadRun(config=config, status=status)
    runs = [replace(one, variant_hash=variant_hash_of(made)) for one in runs]
    states = planned_runs(plan_of(runs), [made])
    assert [state.state for state in states] == ["missing", "finished", "missing"]
    assert unplanned_runs(plan_of(runs), [made]) == []
    assert unplanned_runs(plan_of(runs[:1]), [made]) == [made]
