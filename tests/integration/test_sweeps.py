"""Sweeps that survive: runs that fail, that are there already, and that are added."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ManifestBuilder, Outcome
from vlmbench.runs.folder import VALIDATION_METRIC, RunDir, State
from vlmbench.runs.sweep import SweepDir

Cli = Callable[..., Outcome]
TINY = (
    "model=llama32_tiny",
    "trainer=debug",
    "source.num_parts=24",
    "tracking=off",
    "eval.limit=8",
    "sweep=runs/s",
)


def states(folder: Path) -> dict[str, str]:
    return {
        run.path.name: run.read_status()["state"] for run in SweepDir(folder / "runs" / "s").runs()
    }


def state_table(out: str) -> list[list[str]]:
    """The words of each line of the table with every run's state."""
    lines = iter(out.splitlines())
    next(line for line in lines if line.split() == ["run", "state", "minutes"])
    return [line.split() for line in iter(lambda: next(lines, ""), "")]


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other_and_is_tried_again(
    cli: Cli, tmp_path: Path, parts: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run's records are too long, one disk is full, and the third run is fine."""
    sweep = ("-m", "seed=0,1", "trainer.max_tokens=1,null", *TINY, *parts)
    append = RunDir.append_train_log

    def break_the_second_seed(self: RunDir, row: dict[str, Any]) -> None:
        if self.path.name.endswith("_s1"):
            raise OSError(28, "No space left on device")
        append(self, row)

    with monkeypatch.context() as patched:
        patched.setattr(RunDir, "append_train_log", break_the_second_seed)
        done = cli(*sweep)
    assert done.code == 1
    assert "tokens, more than 1; shorten its question or answer" in done.out
    assert "the same command again" in done.out
    table = state_table(done.out)
    run = "llama32_tiny_without_comparison"
    assert [row[:2] for row in table] == [
        [f"0_{run}_s0", "failed"],
        [f"1_{run}_s0", "finished"],
        [f"2_{run}_s1", "failed"],
        [f"3_{run}_s1", "failed"],
    ]
    assert "No space left on device" in " ".join(table[3])
    assert (tmp_path / "runs" / "s" / "report" / "index.html").exists()
    again = cli(*sweep)
    assert again.code == 1
    assert again.out.count("is finished already") == 1
    assert list(states(tmp_path).values()) == ["failed", "finished", "failed", "finished"]
    without = cli("-m", "seed=0,1", *TINY, *parts)  # the values that cannot be are left out
    assert without.code == 0
    assert without.out.count("is finished already") == 2


@pytest.mark.slow
def test_a_finished_run_stays_finished_while_its_data_is_away(
    cli: Cli, tmp_path: Path, manifest: ManifestBuilder
) -> None:
    path = manifest.write()
    sweep = (
        "-m",
        "seed=0",
        *TINY[:2],
        *TINY[3:],
        "source=manifest",
        f"source.path={path}",
        "view=raw",
    )
    assert cli(*sweep).code == 0
    away = path.rename(path.with_suffix(".away"))
    missing = cli(*sweep)
    assert missing.code == 1
    assert "the manifest does not exist" in " ".join(state_table(missing.out)[0])
    away.rename(path)
    again = cli(*sweep)
    assert again.code == 0
    assert "is finished already" in again.out
    assert state_table(again.out)[0][1:2] == ["finished"]
    assert len(state_table(again.out)[0]) == 3  # the error is forgotten


@pytest.mark.slow
def test_a_run_of_another_process_is_left_to_it(
    cli: Cli, tmp_path: Path, parts: tuple[str, str]
) -> None:
    sweep = ("-m", "seed=0", *TINY, *parts)
    assert cli(*sweep).code == 0
    (run,) = SweepDir(tmp_path / "runs" / "s").runs()
    run.write_status(State.RUNNING, run_hash="another's", model="m", data="d", seed=0, overrides=[])
    before = run.read_status()
    with run.lock():
        done = cli(*sweep)
    assert "another process works in this folder" in done.out
    assert run.read_status() == before


@pytest.mark.slow
def test_check_deletes_nothing_but_its_own(
    cli: Cli, tmp_path: Path, parts: tuple[str, str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    assert cli("-m", "stage=check", "data=single", "sweep=mine", *TINY, *parts).code == 0
    assert (tmp_path / "mine" / "notes").read_text() == "keep"


@pytest.mark.slow
def test_values_that_are_added_to_a_sweep_keep_its_runs(
    cli: Cli, tmp_path: Path, parts: tuple[str, str]
) -> None:
    assert cli("-m", "data=without_comparison,with_comparison", *TINY, *parts).code == 0
    before = states(tmp_path)
    done = cli("-m", "seed=0,1", "data=without_comparison,with_comparison", *TINY, *parts)
    assert done.code == 0
    assert done.out.count("is finished already") == 2
    after = states(tmp_path)
    assert set(before) < set(after)
    assert len(after) == 4
    assert set(after.values()) == {State.FINISHED}


@pytest.mark.slow
def test_check_looks_at_every_run_of_a_sweep(
    cli: Cli, tmp_path: Path, parts: tuple[str, str]
) -> None:
    bad = cli(
        "-m",
        "stage=check",
        "data=single,with_comparison",
        "trainer.max_tokens=1,null",
        *TINY,
        *parts,
    )
    assert bad.code == 1
    assert bad.out.count("the check found no error") == 2
    assert bad.out.count("tokens, more than 1; shorten") >= 2
    assert sorted(row[1] for row in state_table(bad.out)) == [
        "checked",
        "checked",
        "failed",
        "failed",
    ]
    names = [row[0] for row in state_table(bad.out) if row[1] == "failed"]
    assert f"2 of 4 runs failed their check and would not start: {', '.join(names)}" in bad.out
    assert "skips what is finished" not in bad.out
    assert not (tmp_path / "runs").exists()
    good = cli("-m", "stage=check", "data=single,with_comparison", *TINY, *parts)
    assert good.code == 0
    assert [row[1] for row in state_table(good.out)] == ["checked", "checked"]
    prepared = cli("-m", "stage=prepare", "data=single,with_comparison", *TINY, *parts)
    assert [row[1] for row in state_table(prepared.out)] == ["done", "done"]


@pytest.mark.slow
def test_a_run_that_looks_bad_is_pruned_and_goes_on_when_asked(
    cli: Cli, tmp_path: Path, parts: tuple[str, str]
) -> None:
    pytest.importorskip("optuna")
    assert cli("-m", "trainer.learning_rate=5e-4", *TINY, *parts).code == 0
    best = SweepDir(tmp_path / "runs" / "s").runs()[0]
    log = best.read_train_log()
    best.cut_train_log(-1)
    for row in log:  # a random model does not get everything right
        best.append_train_log(row | {VALIDATION_METRIC: 1.0} if VALIDATION_METRIC in row else row)
    both = ("-m", "trainer.learning_rate=5e-4,1e-4", "pruner.startup_trials=1", *TINY, *parts)
    done = cli(*both, "pruner=median")
    assert done.code == 0
    run = SweepDir(tmp_path / "runs" / "s").runs()[1]
    assert list(run.validation_curve()) == [2]
    value = run.validation_curve()[2]
    assert (
        run.read_status()["note"]
        == f"at step 2: balanced accuracy {value:.3f} on the followed validation records"
    )
    assert [row[1:2] + row[3:6] for row in state_table(done.out)] == [
        ["finished"],
        ["pruned", "at", "step", "2:"],
    ]
    assert run.adapter.exists()
    assert run.read_predictions() == []
    report = SweepDir(tmp_path / "runs" / "s").report
    assert "No figures from a pruned run" in (report / "report.md").read_text()
    again = cli(*both, "pruner=median")
    assert again.code == 0
    assert "is pruned already; there is nothing to do" in again.out
    refused = cli(*both, "pruner=median", "stage=evaluate")
    assert refused.code == 1
    assert "train it to the end with stage=run pruner=off" in refused.out
    assert states(tmp_path)[run.path.name] == "pruned"
    assert cli(*both, "pruner=off").code == 0
    assert set(states(tmp_path).values()) == {"finished"}
    assert list(run.validation_curve()) == [2, 4]
    assert run.validation_curve()[2] == value
    assert run.read_predictions() != []
