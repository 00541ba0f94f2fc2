"""Baselines of real runs: shared by a sweep, asked before the first step, never fatal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome
from vlmbench.baselines import linear_probe, patch_nn
from vlmbench.pipeline import baselines
from vlmbench.runs.baselines import baseline_dir
from vlmbench.runs.folder import RunDir
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import Probe, Task

Cli = Callable[..., Outcome]
ALL = {"majority", "untuned", "patch_nn", "linear_probe"}


@pytest.fixture
def tiny(cli: Cli, shared_cache: Path) -> Callable[..., list[RunDir]]:
    """Return a function that runs a tiny model, and returns the runs of the sweep."""

    def call(*arguments: str) -> list[RunDir]:
        given = (
            *("model=llama32_tiny", "trainer=debug", "source.num_parts=20", "tracking=off"),
            *("sweep=runs/tiny", "eval.limit=8", f"cache_dir={shared_cache}"),
        )
        outcome = cli(*given, *arguments)
        assert outcome.code == 0, outcome.err[-3000:]
        return SweepDir(Path("runs/tiny")).runs()

    return call


def rows_of(run: RunDir) -> dict[str, Any]:
    return run.read_baselines()


@pytest.mark.slow
def test_the_runs_of_a_sweep_share_the_answers(
    tiny: Callable[..., list[RunDir]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[str] = []
    monkeypatch.setattr(linear_probe, "_fit", spy(linear_probe._fit, fits))
    first, second = tiny("data=without_comparison,with_comparison", "-m")

    assert set(rows_of(first)) == ALL
    assert rows_keys(first) == rows_keys(second)
    assert len(fits) == 2  # of the first run, in both views
    folders = [path.name for path in Path("runs/tiny/baselines").iterdir()]
    assert sorted(folders) == sorted(rows_keys(first).values())

    held_out = {
        prediction.id
        for prediction in first.read_predictions()
        if prediction.task is Task.JUDGE_PAIR and prediction.probe is Probe.NONE
    }
    for key in rows_keys(first).values():
        folder = baseline_dir(Path("runs/tiny"), key)
        assert {prediction.id for prediction in folder.read_predictions()} == held_out
        validation = {each.id for each in first.read_validation() if each.task is Task.JUDGE_PAIR}
        assert {prediction.id for prediction in folder.read_validation()} == validation

    page = Path("runs/tiny/report/index.html").read_text(encoding="utf-8")
    assert "Is tuning worth it here?" in page


@pytest.mark.slow
def test_the_untuned_model_is_the_one_before_its_first_step(
    tiny: Callable[..., list[RunDir]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = tiny("baseline=[untuned]", "trainer.learning_rate=0")
    untuned = baseline_dir(Path("runs/tiny"), rows_keys(run)["untuned"]).read_predictions()

    # Without learning, the trained model answers the same.
    trained = {prediction.id: prediction.margin for prediction in run.read_predictions()}
    assert untuned
    for prediction in untuned:
        assert prediction.margin == pytest.approx(trained[prediction.id], abs=1e-4)

    # A run that continues from its checkpoint asks the untrained model too.
    shutil.rmtree("runs/tiny/baselines")
    (run.path / "baselines.json").unlink()
    (run.path / "predictions.jsonl").unlink()
    (run,) = tiny("baseline=[untuned]", "trainer.learning_rate=0")
    again = baseline_dir(Path("runs/tiny"), rows_keys(run)["untuned"]).read_predictions()
    assert [each.scores for each in again] == [each.scores for each in untuned]


@pytest.mark.slow
def test_a_baseline_that_fails_is_named_and_costs_no_run(
    tiny: Callable[..., list[RunDir]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the tower caught fire")

    monkeypatch.setattr(patch_nn.PatchNNConfig, "distances", fail)
    (run,) = tiny("baseline=[majority,patch_nn]")
    assert run.read_status()["state"] == "finished"
    assert rows_of(run)["patch_nn"]["error"] == "the tower caught fire"
    page = Path("runs/tiny/report/index.html").read_text(encoding="utf-8")
    assert "Baseline patch_nn has no answers: the tower caught fire" in page


@pytest.mark.slow
def test_an_empty_list_asks_nothing(tiny: Callable[..., list[RunDir]]) -> None:
    (run,) = tiny("baseline=[]")
    assert rows_of(run) == {}
    assert not Path("runs/tiny/baselines").exists()


@pytest.mark.slow
def test_answers_are_kept_and_damaged_ones_are_made_again(
    tiny: Callable[..., list[RunDir]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(baselines, "make_questioner", spy(baselines.make_questioner, asked))
    (run,) = tiny("baseline=[majority]")
    assert len(asked) == 1
    tiny("baseline=[majority]", "stage=evaluate")
    assert len(asked) == 1

    folder = baseline_dir(Path("runs/tiny"), rows_keys(run)["majority"])
    with (folder.path / "predictions.jsonl").open("a") as file:
        file.write("?")
    tiny("baseline=[majority]", "stage=evaluate")
    assert len(asked) == 2
    assert folder.damage() == ""


def rows_keys(run: RunDir) -> dict[str, str]:
    return {name: row["key"] for name, row in rows_of(run).items()}


def spy(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    """Return the function; each call adds its name to `calls`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(function.__name__)
        return function(*args, **kwargs)

    return call
