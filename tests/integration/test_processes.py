"""One run in two processes, as torchrun starts them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
OURS = ("-m", "vlmbench.torchrun", "--standalone", "--nproc-per-node=2")
NAME = "0_llama32_tiny_without_comparison_s0"
# vlmbench, whose leader does something when it writes a row of its log.
BREAKER = """
import os, signal, sys
import psutil
from vlmbench.runs.folder import RunDir
from vlmbench.cli.main import main
action, number = sys.argv[1], int(sys.argv[2])
sys.argv = ["vlmbench", *sys.argv[3:]]
append, rows = RunDir.append_train_log, iter(range(1, 1000))
def append_and_break(self, row):
    append(self, row)
    if next(rows) == number:
        launcher = psutil.Process(os.getppid())
        if action == "terminate":
            launcher.terminate()
        else:
            for other in launcher.children():
                if other.pid != os.getpid():
                    other.kill()
RunDir.append_train_log = append_and_break
main()
"""


def start(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment |= env or {}
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
    return (
        RunDir(folder / "runs" / "one" / NAME),
        RunDir(folder / "runs" / "two" / NAME),
        two.stdout + two.stderr,
    )


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(ran: tuple[RunDir, RunDir, str]) -> None:
    one, two, _ = ran
    expected, found = one.read_train_log(), two.read_train_log()
    assert [row["step"] for row in expected] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    for row, other in zip(expected, found, strict=True):
        assert other == pytest.approx(row, rel=1e-5)


@pytest.mark.slow
def test_what_is_not_training_is_done_once(ran: tuple[RunDir, RunDir, str]) -> None:
    one, two, said = ran
    assert two.read_status()["state"] == "finished"
    assert [p.id for p in two.read_predictions()] == [p.id for p in one.read_predictions()]
    for prediction, other in zip(one.read_predictions(), two.read_predictions(), strict=True):
        assert other.scores == pytest.approx(prediction.scores, abs=1e-3)
    assert said.count("trained 6 steps") == 1
    assert said.count("report: ") == 1
    assert len(list(two.path.parent.glob("*/status.json"))) == 1


@pytest.mark.slow
def test_a_finished_run_is_left_alone_by_both(ran: tuple[RunDir, RunDir, str], drawn: str) -> None:
    _, two, _ = ran
    before = two.read_status()
    again = start(two.path.parents[2], *TWO, *RUN, drawn, "sweep=runs/two")
    assert again.returncode == 0, again.stderr
    assert (again.stdout + again.stderr).count("is finished already") == 1
    assert two.read_status() == before


@pytest.mark.slow
def test_other_stages_take_one_process(ran: tuple[RunDir, RunDir, str]) -> None:
    _, two, _ = ran
    done = start(two.path.parents[2], *TWO, "-m", "vlmbench", "stage=report", "sweep=runs/two")
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("report: ") == 1


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, drawn: str) -> None:
    done = start(tmp_path, *TWO, *RUN, drawn, "trainer.batch_size=3")
    assert done.returncode != 0
    assert (
        "trainer.batch_size must be a multiple of 2, the number of processes, got 3" in done.stderr
    )


@pytest.mark.slow
def test_a_sweep_is_refused(tmp_path: Path) -> None:
    done = start(tmp_path, *TWO, *RUN[:2], "-m", *RUN[2:], "seed=0,1")
    assert done.returncode != 0
    assert "a sweep (-m) must run in one process" in done.stderr


@dataclass(frozen=True)
class Broken:
    """A run that lost a process, was then terminated, and was ended by one process."""

    folder: Path
    killed: subprocess.CompletedProcess[str]
    stopped: subprocess.CompletedProcess[str]
    resumed_by_two_at: int
    ended: str

    @property
    def run(self) -> RunDir:
        return RunDir(self.folder / "runs" / "broken" / NAME)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, drawn: str) -> Broken:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "breaker.py").write_text(BREAKER)
    settings = (*RUN[2:], drawn, "sweep=runs/broken")
    killed = start(folder, *OURS, "breaker.py", "kill", "4", *settings)
    run = RunDir(folder / "runs" / "broken" / NAME)
    stopped = start(folder, *OURS, "breaker.py", "terminate", "3", *settings)
    step = max(row["step"] for row in run.read_train_log())
    shutil.copytree(folder / "runs", folder / "stopped")
    ended = call_vlmbench(folder, *settings)
    return Broken(folder, killed, stopped, step, ended)


def require_losses(run: RunDir, expected: RunDir) -> None:
    rows, found = expected.read_train_log(), run.read_train_log()
    assert [row["step"] for row in found] == [row["step"] for row in rows]
    for row, other in zip(rows, found, strict=True):
        assert other == pytest.approx(row, rel=1e-4)


@pytest.mark.slow
def test_a_lost_process_ends_the_others_with_a_sentence(broken: Broken) -> None:
    assert broken.killed.returncode == 128 + signal.SIGKILL, broken.killed.stderr
    assert "was killed by SIGKILL; the same command resumes" in broken.killed.stderr
    assert "Traceback" not in broken.killed.stderr


@pytest.mark.slow
def test_sigterm_to_the_launcher_of_two_saves_a_checkpoint_and_exits_with_0(
    broken: Broken,
) -> None:
    assert broken.stopped.returncode == 0, broken.stopped.stderr
    assert "resuming from step 2" in broken.stopped.stdout + broken.stopped.stderr
    assert "Traceback" not in broken.stopped.stderr
    status = RunDir(broken.folder / "stopped" / "broken" / NAME).read_status()
    assert status["state"] == "stopped"


@pytest.mark.slow
def test_a_run_of_two_is_ended_by_one(broken: Broken, ran: tuple[RunDir, RunDir, str]) -> None:
    assert f"resuming from step {broken.resumed_by_two_at}" in broken.ended
    assert broken.run.read_status()["state"] == "finished"
    require_losses(broken.run, ran[0])


@pytest.mark.slow
def test_a_run_of_one_is_ended_by_two(
    tmp_path: Path,
    drawn: str,
    ran: tuple[RunDir, RunDir, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append = RunDir.append_train_log

    def ask_at_step_three(self: RunDir, row: dict[str, Any]) -> None:
        append(self, row)
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    settings = (*RUN[2:], drawn, "sweep=runs/broken")
    with monkeypatch.context() as patched:
        patched.setattr(RunDir, "append_train_log", ask_at_step_three)
        with pytest.raises(SystemExit) as stopped:
            call_vlmbench(tmp_path, *settings)
    assert stopped.value.code == 0

    ended = start(tmp_path, *OURS, "-m", "vlmbench", *settings)
    assert ended.returncode == 0, ended.stderr
    assert "resuming from step 4" in ended.stdout
    require_losses(RunDir(tmp_path / "runs" / "broken" / NAME), ran[0])


@pytest.mark.parametrize(
    "stray",
    [
        {"WORLD_SIZE": "2", "RANK": "0"},
        {"WORLD_SIZE": "4"},
        {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"},
        {
            "WORLD_SIZE": "2",
            "RANK": "0",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29500",
        },
        {"WORLD_SIZE": "two", "RANK": "0"},
        {"WORLD_SIZE": "0", "RANK": "0"},
        {"WORLD_SIZE": "-1"},
        {"WORLD_SIZE": "2", "RANK": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {"WORLD_SIZE": "2", "RANK": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"},
        {"WORLD_SIZE": "2", "RANK": "x", "TORCHELASTIC_RUN_ID": "none"},
    ],
    ids=lambda stray: " ".join(f"{name}={value}" for name, value in stray.items()),
)
def test_ranks_that_no_launcher_set_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, stray: dict[str, str]
) -> None:
    clear_ranks(monkeypatch)
    for name, value in stray.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as refused:
        processes.refuse_stray_ranks()

    # The cure, typed back.
    (names,) = re.findall(r"run unset ([A-Z_ ]+) for", str(refused.value))
    for name in names.split():
        monkeypatch.delenv(name)
    processes.refuse_stray_ranks()
    assert processes.count() == 1


@pytest.mark.parametrize(
    "given",
    [
        {"TORCHELASTIC_RUN_ID": "none"},
        {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"},
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
        {"PMI_RANK": "1", "PMI_SIZE": "2"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_processes_of_a_launcher_are_taken(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    clear_ranks(monkeypatch)
    ranks = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    for name, value in {**ranks, **given}.items():
        monkeypatch.setenv(name, value)
    processes.refuse_stray_ranks()
    assert processes.count() == 2
    assert not processes.is_leader()


@pytest.mark.parametrize(
    "stray",
    [
        {"RANK": "1"},
        {"LOCAL_RANK": "3"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "x"},
        {"WORLD_SIZE": "", "RANK": "2"},
        {"MASTER_ADDR": "nowhere", "MASTER_PORT": "1"},
    ],
    ids=str,
)
def test_stray_ranks_of_one_process_change_nothing(
    monkeypatch: pytest.MonkeyPatch, stray: dict[str, str]
) -> None:
    clear_ranks(monkeypatch)
    for name, value in stray.items():
        monkeypatch.setenv(name, value)
    processes.refuse_stray_ranks()
    assert processes.count() == 1
    assert processes.is_leader()
    assert not {"RANK", "LOCAL_RANK", "MASTER_ADDR"} & os.environ.keys()


def clear_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    launchers = [name for pair in processes.LAUNCHERS for name in pair]
    for name in (*processes.RANKS, *launchers, "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def test_stray_ranks_end_a_command_with_one_sentence(tmp_path: Path) -> None:
    stray = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    done = start(tmp_path, *RUN, env=stray)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: WORLD_SIZE=2 is set in the environment")


@pytest.mark.slow
def test_a_mistake_ends_the_launcher_as_it_ends_one_process(tmp_path: Path) -> None:
    done = start(tmp_path, *OURS, *RUN, "trainer.batch_size=3")
    assert done.returncode == 2
    assert "trainer.batch_size must be a multiple of 2" in done.stderr


def test_the_launcher_without_arguments_says_how_to_use_it(tmp_path: Path) -> None:
    done = start(tmp_path, "-m", "vlmbench.torchrun")
    assert done.returncode == 2
    assert "python -m vlmbench.torchrun --nproc-per-node=2 -m vlmbench" in done.stderr


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
