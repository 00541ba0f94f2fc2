"""Runs that are killed, or asked to stop."""

from __future__ import annotations

import os
import shutil
import signal
import time

from bench.faults.fault import Facts, Fault, Rng, require_message, require_recovery
from bench.faults.moments import at_log_row, die
from bench.faults.trial import LOG_ROWS, Outcome, Reference, Trial

GRACE_S = 1.5
STOPPED = "was stopped by a signal"


def killed(reference: Reference, rng: Rng) -> Facts:
    """Send SIGKILL at any moment."""
    trial, after = reference.new_trial(), _draw_moment(reference, rng)
    _start_and_send(trial, signal.SIGKILL, after)

    facts = {"after_s": after, "steps_logged": trial.last_step()}
    return {**facts, **require_recovery(reference, trial)}


def killed_again_and_again(reference: Reference, rng: Rng) -> Facts:
    """Send SIGKILL in training, three times."""
    trial, rows = reference.new_trial(), sorted(int(row) for row in rng.integers(1, LOG_ROWS, 3))
    for row in rows:
        trial.run(prepare=at_log_row(row, die))
    return {"at_rows": rows, **require_recovery(reference, trial)}


def killed_while_preparing(reference: Reference, rng: Rng) -> Facts:
    """Send SIGKILL while the source writes its images and its manifest."""
    trial, after = reference.new_trial(prepared=False), float(rng.uniform(0.1, 1.5))
    _start_and_send(trial, signal.SIGKILL, after)
    facts = {"after_s": after, **require_recovery(reference, trial)}

    folders = [path for path in (trial.folder / "data").iterdir() if path.is_dir()]
    unfinished = [path.name for path in folders if path.name.startswith(".")]
    assert not unfinished, f"unfinished folders are left: {unfinished}"
    return facts


def terminated(reference: Reference, rng: Rng) -> Facts:
    """Send SIGTERM at any moment: the run ends in time, with exit code 0."""
    trial, after = reference.new_trial(), _draw_moment(reference, rng)
    outcome = _start_and_send(trial, signal.SIGTERM, after)
    require_message(outcome, code=0)
    took = outcome.seconds - after
    assert took < 25, f"it took {took:.1f} s"

    facts = {"after_s": after, "took_s": took, "steps_logged": trial.last_step()}
    return {**facts, **require_recovery(reference, trial)}


def terminated_in_training(reference: Reference, rng: Rng) -> Facts:
    """Send SIGTERM in a step: the run finishes the step and keeps it."""
    trial, row = reference.new_trial(), _draw_row(rng)
    terminate = at_log_row(row, lambda: os.kill(os.getpid(), signal.SIGTERM))
    message = require_message(trial.run(prepare=terminate), STOPPED, code=0)
    step = trial.last_step()
    assert trial.run_folder.read_status()["state"] == "stopped"

    facts = require_recovery(reference, trial)
    resumed = facts["resumed_from"]
    assert resumed == step, f"it resumed from step {resumed}, and had stopped after step {step}"
    return {"at_row": row, "message": message, **facts}


def terminated_in_a_long_step(reference: Reference, rng: Rng) -> Facts:
    """Send SIGTERM in a step that takes longer than grace_s: the process still ends in time."""
    trial, row = reference.new_trial(), _draw_row(rng)

    def hang() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    outcome = trial.run(f"grace_s={GRACE_S}", prepare=at_log_row(row, hang))
    message = require_message(outcome, "after SIGTERM (grace_s)", code=0)
    assert outcome.seconds < reference.seconds + GRACE_S + 5, f"it took {outcome.seconds:.1f} s"
    return {"at_row": row, "message": message, **require_recovery(reference, trial)}


def interrupted_once(reference: Reference, rng: Rng) -> Facts:
    """Press Ctrl-C once in training: the run finishes the step and keeps it."""
    trial, row = reference.new_trial(), _draw_row(rng)
    interrupt = at_log_row(row, lambda: os.kill(os.getpid(), signal.SIGINT))
    outcome = trial.run(prepare=interrupt)
    message = require_message(outcome, "stopping after this step", STOPPED, code=130)

    step, facts = trial.last_step(), require_recovery(reference, trial)
    assert facts["resumed_from"] == step
    return {"at_row": row, "message": message, **facts}


def interrupted_twice(reference: Reference, rng: Rng) -> Facts:
    """Press Ctrl-C twice in training: the run stops at once."""
    trial, row = reference.new_trial(), _draw_row(rng)

    def interrupt_twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    outcome = trial.run(prepare=at_log_row(row, interrupt_twice))
    assert outcome.seconds < reference.seconds + 5, f"it took {outcome.seconds:.1f} s"
    message = require_message(outcome, STOPPED, code=130)
    return {"at_row": row, "message": message, **require_recovery(reference, trial)}


def interrupted_elsewhere(reference: Reference, rng: Rng) -> Facts:
    """Press Ctrl-C once at any moment, in training or not."""
    trial, after = reference.new_trial(), _draw_moment(reference, rng)
    outcome = _start_and_send(trial, signal.SIGINT, after)
    assert outcome.code in (0, 130), outcome.text[-2000:]  # 0: the run had ended before
    assert "Traceback" not in outcome.text, outcome.text[-2000:]

    facts = {"after_s": after, "steps_logged": trial.last_step()}
    return {**facts, **require_recovery(reference, trial)}


def two_at_once(reference: Reference, rng: Rng) -> Facts:
    """Start the same run in two processes: only one of them works on it."""
    trial, delay = reference.new_trial(), float(rng.uniform(0, 0.5))
    first = trial.start()
    time.sleep(delay)
    second = trial.start(output="second.txt")
    outcomes = [first.wait(), second.wait()]

    codes = sorted(outcome.code for outcome in outcomes)
    assert codes in ([0, 2], [0, 0]), [outcome.text[-1500:] for outcome in outcomes]
    refused = [outcome for outcome in outcomes if outcome.code == 2]
    messages = [
        require_message(outcome, "another process works in this folder") for outcome in refused
    ]
    return {"later_s": delay, "messages": messages, **require_recovery(reference, trial)}


def stale_lock(reference: Reference, rng: Rng) -> Facts:
    """Leave the lock file of a killed process behind."""
    trial, row = reference.new_trial(), _draw_row(rng)
    trial.run(prepare=at_log_row(row, die))
    assert (trial.run_folder.path / ".lock").exists()
    return {"at_row": row, **require_recovery(reference, trial)}


def moved(reference: Reference, rng: Rng) -> Facts:
    """Kill the run, and move its sweep to another folder."""
    trial, row = reference.new_trial(), int(rng.integers(4, LOG_ROWS))
    trial.run(prepare=at_log_row(row, die))

    target = trial.folder / "elsewhere" / "s"
    target.parent.mkdir()
    shutil.move(trial.folder / "runs" / "s", target)
    moved_trial = Trial(trial.folder, "elsewhere/s")
    return {"at_row": row, **require_recovery(reference, moved_trial)}


def _draw_moment(reference: Reference, rng: Rng) -> float:
    """Return a random second of an undisturbed run, its start and its end included."""
    return float(rng.uniform(0, reference.seconds))


def _draw_row(rng: Rng) -> int:
    """Return a random row of the training log, except the last."""
    return int(rng.integers(1, LOG_ROWS))


def _start_and_send(trial: Trial, number: signal.Signals, after: float) -> Outcome:
    """Start a run, and send a signal after so many seconds."""
    process = trial.start()
    time.sleep(after)
    process.send(number)
    return process.wait()


FAULTS = (
    Fault("killed", "SIGKILL at any moment", killed),
    Fault("killed_again_and_again", "SIGKILL in training, three times", killed_again_and_again),
    Fault(
        "killed_while_preparing",
        "SIGKILL while the source writes images and manifest",
        killed_while_preparing,
    ),
    Fault("terminated", "SIGTERM at any moment: exit code 0 in time", terminated),
    Fault(
        "terminated_in_training",
        "SIGTERM in a step: the step is finished and kept",
        terminated_in_training,
    ),
    Fault(
        "terminated_in_a_long_step",
        "SIGTERM in a step that takes longer than grace_s",
        terminated_in_a_long_step,
    ),
    Fault(
        "interrupted_once", "SIGINT in training: the step is finished and kept", interrupted_once
    ),
    Fault("interrupted_twice", "SIGINT twice in training: it stops at once", interrupted_twice),
    Fault("interrupted_elsewhere", "SIGINT at any moment", interrupted_elsewhere),
    Fault("two_at_once", "two processes start the same run", two_at_once),
    Fault("stale_lock", "the lock file of a killed process is left behind", stale_lock),
    Fault("moved", "killed, and the sweep's folder is moved", moved),
)
