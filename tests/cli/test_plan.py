"""A command writes its plan before its first run, and a later command keeps it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome
from vlmbench.config import Primary
from vlmbench.pipeline.run import Run
from vlmbench.runs.folder import VALIDATION_METRIC, State
from vlmbench.runs.plan import Plan, read_plan
from vlmbench.types import UserError

Cli = Callable[..., Outcome]
TINY = ("model=llama32_tiny", "stage=train", "tracking=off", "sweep=runs/s")
BOTH = "data=without_comparison,with_comparison"


@pytest.fixture(autouse=True)
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan | None]:
    """Return a list to which each run adds the plan that it finds; runs do nothing else."""
    found: list[Plan | None] = []

    def note_plan(run: Run) -> None:
        found.append(read_plan(Path("runs/s")))
        run.folder.append_train_log({"step": 1, VALIDATION_METRIC: 0.5})  # a search needs a value
        run.folder.write_status(State.STOPPED, run_hash="", **run.identity)

    monkeypatch.setattr("vlmbench.cli.stages.do_stage", note_plan)
    return found


def plan(folder: Path) -> Plan:
    found = read_plan(folder / "runs" / "s")
    assert found is not None
    return found


@pytest.mark.slow
def test_a_sweep_plans_its_runs_before_the_first_begins(
    cli: Cli, tmp_path: Path, plans: list[Plan | None]
) -> None:
    cli("-m", BOTH, "seed=0,1", *TINY)
    assert plans == [plan(tmp_path)] * 4
    assert [(run.data, run.seed) for run in plan(tmp_path).runs] == [
        ("without_comparison", 0),
        ("without_comparison", 1),
        ("with_comparison", 0),
        ("with_comparison", 1),
    ]
    assert plan(tmp_path).question.axis == "data"
    assert plan(tmp_path).question.baseline == "without_comparison"
    assert plan(tmp_path).primary == Primary.balanced_accuracy


@pytest.mark.slow
def test_a_swept_setting_is_the_question(cli: Cli, tmp_path: Path) -> None:
    cli("-m", "trainer.learning_rate=1e-4,1e-3", *TINY)
    question = plan(tmp_path).question
    assert (question.axis, question.values, question.baseline) == (
        "trainer.learning_rate",
        ("0.0001", "0.001"),
        "0.0001",
    )


@pytest.mark.slow
def test_the_articles_experiment_plans_36_runs(cli: Cli, tmp_path: Path) -> None:
    cli("experiment=vivlm24", "model=phi3_tiny,llama32_tiny", *TINY[1:])
    runs = plan(tmp_path).runs
    assert len(runs) == len({run.key for run in runs}) == 36
    assert plan(tmp_path).label(runs[0]) == "phi3_tiny · without_comparison"


@pytest.mark.slow
def test_a_single_run_has_a_plan_and_a_seed_more_extends_it(
    cli: Cli, tmp_path: Path, plans: list[Plan | None]
) -> None:
    assert cli(*TINY).code == 0
    assert len(plan(tmp_path).runs) == 1
    assert cli(*TINY, "seed=1").code == 0
    assert [run.seed for run in plan(tmp_path).all_runs] == [0, 1]
    assert len(plan(tmp_path).extensions) == 1
    assert plans[-1] == plan(tmp_path)
    assert cli(*TINY, "seed=1", "grace_s=3").code == 0  # changes no answer
    assert len(plan(tmp_path).extensions) == 1


def test_costs_make_cost_the_primary_figure(cli: Cli, tmp_path: Path) -> None:
    cli(*TINY, "eval.cost_miss=10", "eval.cost_overkill=1", "eval.prevalence=0.05")
    found = plan(tmp_path)
    assert (found.primary, found.cost_miss, found.cost_overkill, found.prevalence) == (
        Primary.cost,
        10.0,
        1.0,
        0.05,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "change"),
    [
        ("-m", "eval.primary=auroc"),
        (None, "eval.cost_miss=10 eval.cost_overkill=1"),
        (None, "eval.test=sealed"),
    ],
)
def test_a_later_start_keeps_figure_costs_and_test_split(
    cli: Cli, tmp_path: Path, flag: str | None, change: str
) -> None:
    options = [flag] if flag else []
    cli(*options, *TINY)
    before = plan(tmp_path)
    refused = cli(*options, *TINY, *change.split(), "seed=1")
    assert refused.code == 2
    assert "this sweep was planned on" in refused.err
    assert plan(tmp_path) == before

    (cure,) = re.findall(r"; set (.*), or start another sweep with (\S+)", refused.err)
    assert cli(*options, *TINY, "seed=1", *shlex.split(cure[0])).code == 0
    assert len(plan(tmp_path).extensions) == 1
    assert cli(*options, *TINY, *change.split(), cure[1]).code == 0
    assert read_plan(tmp_path / "runs" / "s_2") is not None


def test_a_damaged_plan_stops_the_command_before_a_run(
    cli: Cli, tmp_path: Path, plans: list[Plan | None]
) -> None:
    (tmp_path / "runs" / "s").mkdir(parents=True)
    (tmp_path / "runs" / "s" / "plan.json").write_text('{"primary": "luck"}')
    refused = cli(*TINY)
    assert refused.code == 2
    assert "plan.json: the plan is damaged" in refused.err
    assert plans == []


def test_stages_without_a_run_plan_nothing(cli: Cli, tmp_path: Path) -> None:
    assert cli(*TINY, "stage=check").code == 0
    assert not (tmp_path / "runs").exists()


def test_a_search_plans_its_trials(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    cli("experiment=tune", *TINY, "hydra.sweeper.n_trials=1")
    found = plan(tmp_path)
    assert found.trials == 1
    assert found.question.axis == "model.lora.r, trainer.learning_rate"
    assert found.runs == ()
    cli("experiment=tune", *TINY, "hydra.sweeper.n_trials=2", "model.lora.r=choice(2,4)")
    assert json.loads((tmp_path / "runs/s/plan.json").read_text())["extensions"][0]["trials"] == 2


@pytest.mark.slow
def test_cost_as_primary_figure_needs_costs(cli: Cli) -> None:
    refused = cli(*TINY, "eval.primary=cost")
    assert refused.code == 2
    (first, second) = re.findall(r"set (eval\.primary=\S+), or give (.*)", refused.err)[0]
    assert cli(*TINY, first).code == 0
    assert cli(*TINY, "eval.primary=cost", *second.split(), "sweep=runs/other").code == 0


REFUSED = "seed=13"


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs with seeds from 13 be refused, and 99 fail in its training."""

    def refuse(run: Run) -> None:
        seed = run.config.seed
        if seed == 99:
            run.folder.append_train_log({"step": 1, VALIDATION_METRIC: 0.5})
        if seed >= 13:
            raise UserError("mend the data")
        run.folder.append_train_log({"step": 1, VALIDATION_METRIC: 0.5})
        run.folder.write_status(State.STOPPED, run_hash="", **run.identity)

    monkeypatch.setattr("vlmbench.cli.stages.do_stage", refuse)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["", "-m"])
def test_what_was_refused_is_not_planned(
    cli: Cli, tmp_path: Path, refusing: None, flag: str
) -> None:
    options = flag.split()
    assert cli(*options, *TINY, REFUSED).code != 0
    assert read_plan(tmp_path / "runs" / "s") is None

    assert cli(*options, *TINY).code == 0
    (first,) = plan(tmp_path).all_runs
    assert (first.seed, plan(tmp_path).runs_before) == (0, 0)

    before = plan(tmp_path)
    assert cli(*options, *TINY, "trainer.learning_rate=0.1", REFUSED).code != 0
    assert plan(tmp_path) == before  # its question too


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["", "-m"])
def test_a_run_that_another_process_works_on_stays_planned(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    held = []

    def start_twice(run: Run) -> None:
        other = run.folder.lock()
        other.__enter__()
        held.append(other)
        with run.folder.lock():
            raise AssertionError("the lock was not held")

    monkeypatch.setattr("vlmbench.cli.stages.do_stage", start_twice)
    assert cli(*flag.split(), *TINY).code != 0
    assert len(plan(tmp_path).runs) == len(held) == 1
    held[0].__exit__(None, None, None)


@pytest.mark.slow
def test_a_damaged_run_hides_no_other_error(cli: Cli, tmp_path: Path, refusing: None) -> None:
    assert cli("-m", *TINY, REFUSED).code == 1
    (config,) = (tmp_path / "runs" / "s").glob("*/config.yaml")
    config.write_text("[", encoding="utf-8")
    again = cli("-m", *TINY, "seed=14")
    assert again.code == 1
    assert "mend the data" in again.out + again.err
    assert read_plan(tmp_path / "runs" / "s") is None


@pytest.mark.slow
@pytest.mark.parametrize("seeds", ["seed=0,13", "seed=13,99"])
def test_a_start_of_which_a_part_trained_stays_planned(
    cli: Cli, tmp_path: Path, refusing: None, seeds: str
) -> None:
    assert cli("-m", *TINY, seeds).code == 1
    assert len(plan(tmp_path).runs) == 2
    assert cli(*TINY, REFUSED).code == 2
    assert len(plan(tmp_path).runs) == 2
