"""Runs that are started again: after their last step, and after their patience ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome
from tests.helpers.runs import only_run
from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.sweep import SweepDir

Cli = Callable[..., Outcome]
TINY = (
    "model=llama32_tiny",
    "trainer=debug",
    "source.num_parts=24",
    "tracking=off",
    "eval.limit=4",
    "eval.probes=false",
)
PATIENT = (
    "trainer.eval_steps=1",
    "trainer.early_stopping=1",
    "trainer.learning_rate=0",
    "trainer.max_steps=10",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "steps"), [((), 4), (PATIENT, 2)], ids=["last step", "patience ended"]
)
def test_a_run_that_had_ended_its_training_trains_no_further(
    cli: Cli, tmp_path: Path, parts: tuple[str, str], settings: tuple[str, ...], steps: int
) -> None:
    """A run that broke between its training and its end resumes from its last checkpoint."""
    assert f"trained {steps} steps" in cli(*TINY, *parts, *settings).out
    run = only_run(tmp_path)
    predictions, log = run.read_predictions(), run.read_train_log()
    for name in ("status.json", "predictions.jsonl"):
        (run.path / name).unlink()
    again = cli(*TINY, *parts, *settings)
    assert again.code == 0, again.err[-2000:]
    assert f"resuming from step {steps}" in again.out
    assert f"trained {steps} steps" in again.out
    assert run.read_predictions() == predictions
    assert run.read_train_log() == log


@pytest.mark.slow
def test_a_damaged_result_is_named_by_the_report_and_made_again(
    cli: Cli, tmp_path: Path, parts: tuple[str, str]
) -> None:
    assert cli(*TINY, *parts).code == 0
    run = only_run(tmp_path)
    path = run.path / "predictions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    reported = cli("stage=report", f"sweep={run.path.parent}")
    assert reported.code == 0
    assert "predictions.jsonl: the file is damaged" in reported.out + reported.err
    assert cli(*TINY, *parts).code == 0
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_stop_begins_no_other_run(
    cli: Cli, tmp_path: Path, parts: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ("-m", "seed=0,1", "sweep=runs/s", *TINY, *parts)
    append = RunDir.append_train_log

    def ask_at_step_three(self: RunDir, row: dict[str, Any]) -> None:
        append(self, row)
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(RunDir, "append_train_log", ask_at_step_three)
        assert cli(*sweep).code == 0
    (run,) = SweepDir(tmp_path / "runs" / "s").runs()
    assert run.read_status()["state"] == State.STOPPED
    assert not (tmp_path / "runs" / "s" / "report").exists()
    again = cli(*sweep)
    assert again.code == 0
    assert (
        again.out.count("resuming from step 4") == 1
    )  # asked while the third was logged, it finished the fourth
    assert {run.read_status()["state"] for run in SweepDir(tmp_path / "runs" / "s").runs()} == {
        State.FINISHED
    }
