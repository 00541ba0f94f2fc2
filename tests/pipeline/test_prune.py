"""Which curves are worth going on with, and beside which others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vlmbench.config import PrunerConfig, TrainerConfig
from vlmbench.pipeline import prune as pruning
from vlmbench.runs.folder import VALIDATION_METRIC, RunDir, State
from vlmbench.types import UserError

# At step 20 these had 0.6, 0.7 and 0.9.
FINISHED: list[Mapping[int, float]] = [{10: 0.5, 20: 0.6}, {10: 0.6, 20: 0.7}, {10: 0.7, 20: 0.9}]
MEDIAN = PrunerConfig(startup_trials=3)


@pytest.mark.parametrize(
    ("own", "settings", "expected"),
    [
        ({20: 0.69}, MEDIAN, True),  # below the median, 0.7
        ({20: 0.7}, MEDIAN, False),
        ({10: 0.75, 20: 0.1}, MEDIAN, False),  # its best so far counts
        ({10: 0.55}, MEDIAN, True),  # by what the others had at the same step, not in the end
        ({15: 0.0}, MEDIAN, False),  # no other was evaluated at that step
        ({20: 0.0}, PrunerConfig(startup_trials=4), False),
        ({20: 0.0}, PrunerConfig(startup_trials=3, warmup_steps=21), False),
        (
            {20: 0.65},
            PrunerConfig(startup_trials=3, percentile=75),
            False,
        ),  # the lower quartile is 0.65
        ({20: 0.64}, PrunerConfig(startup_trials=3, percentile=75), True),
    ],
)
def test_a_curve_below_what_finished_ones_had_is_pruned(
    own: Mapping[int, float], settings: PrunerConfig, expected: bool
) -> None:
    pytest.importorskip("optuna")
    assert pruning.should_prune(own, FINISHED, settings) is expected


def test_without_finished_runs_nothing_is_pruned() -> None:
    pytest.importorskip("optuna")
    assert not pruning.should_prune({20: 0.0}, [], PrunerConfig(startup_trials=1))


def write(
    folder: Path, values: list[float], *, state: State = State.FINISHED, **settings: Any
) -> RunDir:
    """Write a run that was evaluated every 10 steps. `settings` are its trainer's and its names."""
    run = RunDir(folder)
    names = {
        "model": settings.pop("model", "smol"),
        "data": settings.pop("data", "with_comparison"),
    }
    config = {"name": folder.name, "seed": settings.pop("seed", 0), "model": {"r": len(values)}}
    run.write_config(json.dumps(config | {"trainer": {"eval_records": 48, **settings}}))
    run.write_status(state, run_hash="x", **names)
    for number, value in enumerate(values):
        run.append_train_log({"step": 10 * number, "loss": 1.0})
        run.append_train_log({"step": 10 * number + 10, VALIDATION_METRIC: value})
    return run


def test_a_run_is_compared_with_finished_runs_that_differ_in_model_and_trainer_settings_alone(
    tmp_path: Path,
) -> None:
    own = write(tmp_path / "0_x", [0.5], state=State.RUNNING, learning_rate=0.1)
    write(tmp_path / "1_x", [0.6, 0.7], learning_rate=0.2)
    write(tmp_path / "2_x", [0.8], epochs=5)
    write(tmp_path / "3_x", [0.1], state=State.PRUNED)
    write(tmp_path / "4_x", [0.1], state=State.FAILED)
    write(tmp_path / "5_x", [0.1], state=State.RUNNING)
    write(tmp_path / "6_x", [0.1], data="single")
    write(tmp_path / "7_x", [0.1], model="phi3")
    write(tmp_path / "8_x", [0.1], seed=1)
    write(tmp_path / "9_x", [0.1], eval_records=12)
    write(tmp_path / "10_x", [])  # never evaluated
    assert pruning.finished_curves(own) == [{10: 0.6, 20: 0.7}, {10: 0.8}]


def test_pruning_that_cannot_be_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"set trainer.eval_steps=50, or pruner=off"):
        pruning.check_pruner(PrunerConfig(), TrainerConfig(eval_steps=None))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"vlmbench\[sweep\]"):
        pruning.check_pruner(PrunerConfig(), TrainerConfig())
    pruning.check_pruner(PrunerConfig(enabled=False), TrainerConfig(eval_steps=None))


@pytest.mark.parametrize(
    "values", [{"percentile": 101}, {"startup_trials": 0}, {"warmup_steps": -1}]
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"pruner.{next(iter(values))} must be"):
        PrunerConfig(**values)
