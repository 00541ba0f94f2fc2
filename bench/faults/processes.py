"""Runs in several processes, as torchrun starts them: broken off, asked to stop, and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from bench.faults.fault import Facts, Fault, Inject, Rng
from bench.faults.trial import COMMAND, PATIENCE_S, STEPS, Outcome, Reference, Trial
from vlmbench.runs.folder import RunDir

REPOSITORY = Path(__file__).parents[2]
# Without dropout: its random numbers are those of a process, and their number changes.
SETTINGS = (*COMMAND, "model.lora.dropout=0.0")
SLOW_START_S = 90.0  # until the first row of the log: each process imports torch by itself


def _start(trial: Trial, count: int, name: str) -> subprocess.Popen[bytes]:
    """Start the trial's run in `count` processes; its output goes to `<name>.txt`."""
    launcher = ("-m", "vlmbench.torchrun", "--standalone", f"--nproc-per-node={count}")
    arguments = ("-m", "vlmbench", *SETTINGS, f"sweep={trial.sweep}")
    command = [sys.executable, *(launcher if count > 1 else ()), *arguments]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with (trial.folder / f"{name}.txt").open("wb") as file:
        return subprocess.Popen(
            command, cwd=trial.folder, env=env, stdout=file, stderr=subprocess.STDOUT
        )


def _end(process: subprocess.Popen[bytes], trial: Trial, name: str) -> Outcome:
    """Return how it ended, with its children; raise TimeoutError if it hangs."""
    started_at, path = time.monotonic(), trial.folder / f"{name}.txt"
    children = (
        psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    )
    try:
        code = process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        for child in (*children, process):
            child.kill()
        raise TimeoutError(f"a run hangs; its output is in {path}") from error

    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive, f"processes are left: {alive}"
    text = path.read_text(encoding="utf-8", errors="replace")
    return Outcome(code, text, time.monotonic() - started_at)


def _wait_for_rows(folder: RunDir, number: int) -> None:
    deadline = time.monotonic() + SLOW_START_S
    while len(folder.read_train_log()) < number:
        assert time.monotonic() < deadline, "no row of the log was written"
        time.sleep(0.02)


def _check_resumed(trial: Trial, count: int, undisturbed: Trial) -> Facts:
    """Start again in `count` processes, and compare the losses with those of one process."""
    outcome = _end(_start(trial, count, "again"), trial, "again")
    assert outcome.code == 0, outcome.text[-3000:]

    found, expected = trial.losses(), undisturbed.losses()
    assert [row[0] for row in found] == list(range(1, STEPS + 1)), found
    for (_, loss, tokens), (_, other, other_tokens) in zip(found, expected, strict=True):
        assert abs(loss - other) <= 1e-3 * abs(other), (found, expected)
        assert tokens == other_tokens, (found, expected)
    return {"then": "the same losses to 0.1 %"}


def _broken_off(number: signal.Signals, before: int, after: int, *, one: bool = False) -> Inject:
    """Send a signal to the launcher, or with `one` to one process; then start in `after`."""

    def inject(reference: Reference, rng: Rng) -> Facts:
        undisturbed, trial = reference.new_trial(), reference.new_trial()
        assert undisturbed.run("model.lora.dropout=0.0").code == 0
        row = int(rng.integers(3, STEPS))

        process = _start(trial, before, "broken")
        _wait_for_rows(trial.run_folder, row)
        target = psutil.Process(process.pid)
        victims = target.children() if one else [target]
        (victims[int(rng.integers(len(victims)))]).send_signal(number)

        outcome = _end(process, trial, "broken")
        expected = {signal.SIGTERM: 0, signal.SIGINT: 130, signal.SIGKILL: 137}[number]
        if before > 1:
            assert outcome.code == expected, f"{outcome.code}: {outcome.text[-3000:]}"
        assert "Traceback" not in outcome.text, outcome.text[-3000:]
        facts = {"at_row": row, "exit_code": outcome.code, "took_s": outcome.seconds}
        return {**facts, **_check_resumed(trial, after, undisturbed)}

    return inject


FAULTS = (
    Fault("torchrun_terminated", "SIGTERM to torchrun", _broken_off(signal.SIGTERM, 2, 2)),
    Fault("torchrun_interrupted", "SIGINT to torchrun", _broken_off(signal.SIGINT, 2, 2)),
    Fault(
        "torchrun_process_killed",
        "SIGKILL to one of two processes",
        _broken_off(signal.SIGKILL, 2, 2, one=True),
    ),
    Fault(
        "torchrun_two_to_one",
        "SIGTERM to two processes, resumed by one",
        _broken_off(signal.SIGTERM, 2, 1),
    ),
    Fault(
        "torchrun_one_to_two",
        "SIGKILL to one process, resumed by two",
        _broken_off(signal.SIGKILL, 1, 2),
    ),
)
