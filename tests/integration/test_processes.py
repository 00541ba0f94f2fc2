"""One run in two processes, as torchrun starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, call_vlmbench
from vlmbench.runs.folder import RunDir
from vlmbench.system import processes
from vlmbench.types import UserError

RUN = (
    *(
        "-m",
        "vlmbench",
        "model=llama32_tiny",
        "trainer=debug",
        "trainer.batch_size=4",
        "trainer.max_steps=6",
    ),
    *("source.num_parts=24", "eval.limit=8", "eval.probes=false", "tracking=off"),
)
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, drawn: str) -> tuple[RunDir, RunDir, str]:
    """By one process, by two, and what these said."""
    folder = tmp_path_factory.mktemp("processes")
    call_vlmbench(folder, *RUN[2:], drawn, "sweep=runs/one")
    two = start(folder, *TWO, *RUN, drawn, "sweep=runs/two")
    assert two.returncode == 0, two.stderr
    name = "0_llama32_tiny_without_comparison_s0"
    return (
        RunDir(folder / "runs" / "one" / name),
        RunDir(folder / "runs" / "two" / name),
        two.stdout + two.stderr,
    )


def test_two_processes_have_the_losses_of_one(ran: tuple[RunDir, RunDir, str]) -> None:
    one, two, _ = ran
    expected, found = one.read_train_log(), two.read_train_log()
    assert [row["step"] for row in expected] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    for row, other in zip(expected, found, strict=True):
        assert other == pytest.approx(row, rel=1e-5)


def test_what_is_not_training_is_done_once(ran: tuple[RunDir, RunDir, str]) -> None:
    one, two, said = ran
    assert two.read_status()["state"] == "finished"
    assert [p.id for p in two.read_predictions()] == [p.id for p in one.read_predictions()]
    for prediction, other in zip(one.read_predictions(), two.read_predictions(), strict=True):
        assert other.scores == pytest.approx(prediction.scores, abs=1e-3)
    assert said.count("trained 6 steps") == 1
    assert said.count("report: ") == 1
    assert len(list(two.path.parent.glob("*/status.json"))) == 1


def test_a_finished_run_is_left_alone_by_both(ran: tuple[RunDir, RunDir, str], drawn: str) -> None:
    _, two, _ = ran
    before = two.read_status()
    again = start(two.path.parents[2], *TWO, *RUN, drawn, "sweep=runs/two")
    assert again.returncode == 0, again.stderr
    assert (again.stdout + again.stderr).count("is finished already") == 1
    assert two.read_status() == before


def test_other_stages_take_one_process(ran: tuple[RunDir, RunDir, str]) -> None:
    _, two, _ = ran
    done = start(two.path.parents[2], *TWO, "-m", "vlmbench", "stage=report", "sweep=runs/two")
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("report: ") == 1


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, drawn: str) -> None:
    done = start(tmp_path, *TWO, *RUN, drawn, "trainer.batch_size=3")
    assert done.returncode != 0
    assert (
        "trainer.batch_size must be a multiple of 2, the number of processes, got 3" in done.stderr
    )


def test_a_sweep_is_refused(tmp_path: Path) -> None:
    done = start(tmp_path, *TWO, *RUN[:2], "-m", *RUN[2:], "seed=0,1")
    assert done.returncode != 0
    assert "a sweep (-m) must run in one process" in done.stderr


def test_each_process_sees_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("WORLD_SIZE", "2"),
        ("RANK", "1"),
        ("LOCAL_RANK", "1"),
        ("CUDA_VISIBLE_DEVICES", "4,6"),
    ):
        monkeypatch.setenv(name, value)
    processes.use_own_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert os.environ["LOCAL_RANK"] == "0"
    assert not processes.is_leader()
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(
        UserError, match="CUDA_VISIBLE_DEVICES=6: process 2 of this host has no GPU"
    ):
        processes.use_own_gpu()


@pytest.mark.parametrize(("visible", "own"), [(None, "0"), ("3,1", "3"), ("", "")])
def test_a_run_of_one_process_takes_the_first_card(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, own: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for _ in range(2):  # a sweep's runs run in one process
        processes.use_own_gpu()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == own
