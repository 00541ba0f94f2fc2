"""Runs that are started again: after their last step, and after their patience ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome
from vlmbench.rundir import RunDir, SweepDir

Cli = Callable[..., Outcome]
TINY = (
    "model=llama32_tiny",
    "trainer=debug",
    "source.num_parts=24",
    "tracking=off",
    "eval.limit=4",
    "eval.probes=false",
)
PATIENT = ("trainer.eval_steps=1", "trainer.early_stopping=1", "trainer.learning_rate=0", "trainer.max_steps=10")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("parts")
    return f"data_dir={folder / 'data'}", f"cache_dir={folder / 'cache'}"


def only_cell(folder: Path) -> RunDir:
    (sweep,) = (folder / "runs").iterdir()
    (cell,) = SweepDir(sweep).cells()
    return cell


@pytest.mark.parametrize(("settings", "steps"), [((), 4), (PATIENT, 2)], ids=["last step", "patience ended"])
def test_a_run_that_had_ended_its_training_trains_no_further(
    cli: Cli, tmp_path: Path, parts: tuple[str, str], settings: tuple[str, ...], steps: int
) -> None:
    """Broken off between its training and its end: here by losing what it had reached after the last checkpoint."""
    assert f"trained {steps} steps" in cli(*TINY, *parts, *settings).out
    cell = only_cell(tmp_path)
    predictions, log = cell.read_predictions(), cell.read_train_log()
    for name in ("status.json", "predictions.jsonl"):
        (cell.path / name).unlink()
    again = cli(*TINY, *parts, *settings)
    assert again.code == 0, again.err[-2000:]
    assert f"going on from step {steps}" in again.out
    assert f"trained {steps} steps" in again.out
    assert cell.read_predictions() == predictions
    assert cell.read_train_log() == log


def test_a_damaged_result_is_refused_by_the_report_and_made_again(
    cli: Cli, tmp_path: Path, parts: tuple[str, str]
) -> None:
    assert cli(*TINY, *parts).code == 0
    cell = only_cell(tmp_path)
    path = cell.path / "predictions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused = cli("stage=report", f"sweep={cell.path.parent}")
    assert refused.code == 2
    assert "predictions.jsonl: the file is damaged" in refused.err
    assert cli(*TINY, *parts).code == 0
    assert path.read_bytes() == whole
