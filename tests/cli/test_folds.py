"""data.folds on the command line: a sweep runs every fold, a single run is told how."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.conftest import Outcome
from vlmbench.cli.arguments import read_settings
from vlmbench.cli.validate import validate_sweep
from vlmbench.pipeline.run import Run
from vlmbench.runs.folder import State
from vlmbench.runs.plan import Plan, read_plan
from vlmbench.types import UserError

Cli = Callable[..., Outcome]
TINY = ("model=llama32_tiny", "stage=train", "tracking=off", "sweep=runs/s")


@pytest.fixture(autouse=True)
def _runs_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(run: Run) -> None:
        run.folder.write_status(State.STOPPED, run_hash="", **run.identity)

    monkeypatch.setattr("vlmbench.cli.stages.do_stage", stop)


def plan(folder: Path) -> Plan:
    found = read_plan(folder / "runs" / "s")
    assert found is not None
    return found


@pytest.mark.slow
def test_a_sweep_with_folds_plans_each_of_them(cli: Cli, tmp_path: Path) -> None:
    assert cli("-m", *TINY, "data=without_comparison,with_comparison", "data.folds=3").code == 0
    planned = plan(tmp_path)
    assert [(run.data, run.fold) for run in planned.runs] == [
        *(("without_comparison", fold) for fold in range(3)),
        *(("with_comparison", fold) for fold in range(3)),
    ]
    assert len({run.variant_hash for run in planned.runs}) == 2
    assert len({run.key for run in planned.runs}) == 6
    assert planned.seeds(planned.runs[0].variant_hash) == (0,)
    assert planned.question.axis == "data"
    assert len(list((tmp_path / "runs" / "s").glob("*/status.json"))) == 6


@pytest.mark.slow
def test_folds_are_no_question(cli: Cli, tmp_path: Path) -> None:
    cli("-m", *TINY, "data.folds=2", "seed=0,1")
    planned = plan(tmp_path)
    assert (planned.question.axis, planned.question.values) == ("data", ("without_comparison",))
    assert {planned.label(run) for run in planned.runs} == {"without_comparison"}


@pytest.mark.slow
def test_the_cure_of_a_single_run_with_folds_is_a_sweep(cli: Cli, tmp_path: Path) -> None:
    outcome = cli(*TINY, "data.folds=3")
    assert outcome.code == 2
    (cure,) = re.findall(r"data.folds=3 takes a run for each fold.* add (\S+ -m)", outcome.err)
    assert cure == "data.fold=0,1,2 -m"

    assert cli(*TINY, "data.folds=3", *cure.split()).code == 0
    assert [run.fold for run in plan(tmp_path).runs] == [0, 1, 2]


def test_one_fold_can_run_alone(cli: Cli, tmp_path: Path) -> None:
    assert cli(*TINY, "data.folds=3", "data.fold=1").code == 0
    assert [run.fold for run in plan(tmp_path).runs] == [1]


def test_a_fold_that_does_not_exist_is_refused(cli: Cli) -> None:
    outcome = cli("-m", *TINY, "data.folds=3", "data.fold=5")
    assert outcome.code == 2
    assert "data.fold must be between 0 and 2, got 5; set data.fold=0" in outcome.err


@pytest.mark.parametrize(
    ("settings", "added"),
    [
        (["data.folds=3"], ["data.fold=0,1,2"]),
        (["data.folds=3", "data.fold=1"], []),
        (["data.folds=null"], []),
        (["data.folds=2,3"], []),
        (["seed=0,1"], []),
    ],
)
def test_folds_are_added_where_they_are_asked_for(settings: list[str], added: list[str]) -> None:
    assert read_settings(settings, is_sweep=True) == [*settings, *added]
    assert read_settings(settings, is_sweep=False) == settings


def test_a_large_number_of_folds_is_refused_quickly(cli: Cli) -> None:
    outcome = cli("-m", *TINY, "data.folds=999")
    assert "data.folds must be between 2 and 100, got 999; set data.folds=5" in outcome.err


def test_a_sealed_test_split_has_no_folds(cli: Cli) -> None:
    settings = (*TINY, "data.folds=3", "data.fold=1", "eval.test=sealed")
    outcome = cli(*settings)
    assert outcome.code == 2
    (cure,) = re.findall(r"set (\S+)\n", outcome.err)
    assert cli(*settings[:-1], cure).code == 0


def test_a_search_over_folds_is_refused() -> None:
    hydra = {"sweeper": {"_target_": "x.OptunaSweeper"}, "overrides": {"task": ["data.folds=5"]}}
    with pytest.raises(UserError, match=r"got data\.folds=5; set data\.folds=null"):
        validate_sweep(OmegaConf.create({"hydra": hydra}))
