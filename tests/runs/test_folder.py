"""Files of a run folder: whole or not there."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from vlmbench.runs.folder import RunDir, State, write_whole
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import Prediction, Probe, Task, UserError


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.json"
    write_whole(target, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    one = Prediction(
        id="a",
        task=Task.JUDGE_PAIR,
        group="g",
        view="raw",
        expected="normal",
        predicted=None,
        scores={"normal": -0.1, "abnormal": -2.5},
        probe=Probe.SWAP,
        of=("b",),
        question="二つ目は?",
        images=("/x/a.png", ""),
        meta={"defect": "scratch"},
    )
    run = RunDir(tmp_path)
    run.write_predictions([one, one])
    assert run.read_predictions() == [one, one]


def test_a_log_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.append_train_log({"step": 1, "loss": 2.0})
    with run.train_log.open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.read_train_log() == [{"step": 1, "loss": 2.0}]


def test_a_resumed_log_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step in (1, 2, 3):
        run.append_train_log({"step": step})
    run.cut_train_log(2)
    assert run.read_train_log() == [{"step": 1}, {"step": 2}]


def test_a_figure_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        RunDir(tmp_path).write_metrics({"scores": float("nan")})
    assert not (tmp_path / "metrics.json").exists()


def test_runs_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("10_b", "2_a"):
        RunDir(tmp_path / name).write_status(State.FINISHED, run_hash="x", seconds=1.0)
    assert [run.path.name for run in SweepDir(tmp_path).runs()] == ["2_a", "10_b"]
    status = json.loads((tmp_path / "2_a" / "status.json").read_text())
    assert abs(status.pop("time") - time.time()) < 60
    assert status == {"state": "finished", "run_hash": "x", "seconds": 1.0}


@pytest.mark.parametrize(
    ("before", "after"),
    [("finished", "finished"), ("pruned", "pruned"), ("running", "failed"), (None, "failed")],
)
def test_an_error_takes_nothing_from_what_was_reached_before(
    tmp_path: Path, before: str | None, after: str
) -> None:
    run = RunDir(tmp_path)
    if before is not None:
        run.write_status(State(before), run_hash="x", model="smol")
    run.write_error("no disk", model="smol")
    status = run.read_status()
    assert (status["state"], status["error"], status["model"]) == (after, "no disk", "smol")
    assert status["run_hash"] == ("" if before is None else "x")
    run.clear_error()
    assert "error" not in run.read_status()


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the folder holds no run"):
        SweepDir(tmp_path).runs()


def test_a_run_is_run_by_one_process(tmp_path: Path) -> None:
    with (
        RunDir(tmp_path).lock(),
        pytest.raises(UserError, match="another process"),
        RunDir(tmp_path).lock(),
    ):
        pass


def test_a_runs_value_is_the_best_in_its_log_and_a_pruned_ones_the_last(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.validation_value() is None
    for step, value in ((50, 0.6), (100, 0.7), (150, 0.65)):
        run.append_train_log({"step": step, "loss": 1.0})
        run.append_train_log({"step": step, "eval_loss": 1.0, "eval_balanced_accuracy": value})
    assert run.validation_value() == 0.7
    run.write_status(State.PRUNED, run_hash="x")
    assert run.validation_value() == 0.65


def test_a_configuration_is_read_as_it_was_written_and_nothing_in_it_is_resolved(
    tmp_path: Path,
) -> None:
    run = RunDir(tmp_path / "run")
    assert run.read_config() == {}
    run.write_config("seed: 0\nprompt: ${oc.env:HOME}\n")
    assert run.read_config() == {"seed": 0, "prompt": "${oc.env:HOME}"}


@pytest.mark.parametrize("text", ["a: [1", "!!python/object/apply:os.system ['true']"])
def test_a_configuration_that_is_no_plain_yaml_is_an_error_that_names_it(
    text: str, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    run.write_config(text)
    with pytest.raises(UserError, match=r"config\.yaml: the file is not valid YAML"):
        run.read_config()
