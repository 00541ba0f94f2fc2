"""Runs that are killed, or asked to stop."""

from __future__ import annotations

import os
import shutil
import signal
import time

from bench.faults.fault import Facts, Fault, Rng, recovers, says
from bench.faults.stage import STEPS, Scene, Stage, at_row, die

ROWS = STEPS + STEPS // 2  # of the training log: losses and evaluations
GRACE_S = 1.5


def _moment(stage: Stage, rng: Rng) -> float:
    """A random second of an undisturbed run, its beginning and its end included."""
    return float(rng.uniform(0, stage.seconds))


def killed(stage: Stage, rng: Rng) -> Facts:
    """SIGKILL at any moment."""
    scene, after = stage.scene(), _moment(stage, rng)
    process = scene.start()
    time.sleep(after)
    process.send(signal.SIGKILL)
    process.ended()
    return {"after_s": after, "steps_logged": _steps(scene), **recovers(stage, scene)}


def killed_again_and_again(stage: Stage, rng: Rng) -> Facts:
    """SIGKILL in training, three times."""
    scene, rows = stage.scene(), sorted(int(row) for row in rng.integers(1, ROWS, 3))
    for row in rows:
        scene.run(spoil=at_row(row, die))
    return {"at_rows": rows, **recovers(stage, scene)}


def killed_while_preparing(stage: Stage, rng: Rng) -> Facts:
    """SIGKILL while the source's pictures and manifest are written."""
    scene, after = stage.scene(prepared=False), float(rng.uniform(0.1, 1.5))
    process = scene.start()
    time.sleep(after)
    process.send(signal.SIGKILL)
    process.ended()
    facts = {"after_s": after, **recovers(stage, scene)}
    left = [path.name for path in (scene.folder / "data").iterdir() if path.is_dir() and path.name.startswith(".")]
    assert not left, f"unfinished folders were left: {left}"
    return facts


def terminated(stage: Stage, rng: Rng) -> Facts:
    """SIGTERM at any moment: it ends in time, with exit code 0."""
    scene, after = stage.scene(), _moment(stage, rng)
    process = scene.start()
    time.sleep(after)
    process.send(signal.SIGTERM)
    sent, outcome = time.monotonic(), process.ended()
    says(outcome, code=0)
    took = time.monotonic() - sent
    assert took < 25, f"it took {took:.1f} s"
    return {"after_s": after, "took_s": took, "steps_logged": _steps(scene), **recovers(stage, scene)}


def terminated_in_training(stage: Stage, rng: Rng) -> Facts:
    """While a step is taken: it is finished, and kept."""
    scene, row = stage.scene(), int(rng.integers(1, ROWS))
    outcome = scene.run(spoil=at_row(row, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    said = says(outcome, "was asked to stop", code=0)
    step = _steps(scene)
    assert scene.cell.read_status()["state"] == "stopped"
    facts = recovers(stage, scene)
    assert facts["went_on_from"] == step, f"went on from {facts['went_on_from']}, stopped after {step}"
    return {"at_row": row, "said": said, **facts}


def terminated_in_a_long_step(stage: Stage, rng: Rng) -> Facts:
    """A step that takes longer than the grace: the process ends in time all the same."""
    scene, row = stage.scene(), int(rng.integers(1, ROWS))

    def hang() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    started = time.monotonic()
    outcome = scene.run(f"grace_s={GRACE_S}", spoil=at_row(row, hang))
    said = says(outcome, "after SIGTERM (grace_s)", code=0)
    assert time.monotonic() - started < stage.seconds + GRACE_S + 5
    return {"at_row": row, "said": said, **recovers(stage, scene)}


def interrupted_once(stage: Stage, rng: Rng) -> Facts:
    """One Ctrl-C in training: the step is finished, and kept."""
    scene, row = stage.scene(), int(rng.integers(1, ROWS))
    outcome = scene.run(spoil=at_row(row, lambda: os.kill(os.getpid(), signal.SIGINT)))
    said = says(outcome, "stopping after this step", "was asked to stop", code=130)
    step, facts = _steps(scene), recovers(stage, scene)
    assert facts["went_on_from"] == step
    return {"at_row": row, "said": said, **facts}


def interrupted_twice(stage: Stage, rng: Rng) -> Facts:
    """Two in training: it stops at once."""
    scene, row = stage.scene(), int(rng.integers(1, ROWS))

    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    outcome = scene.run(spoil=at_row(row, twice))
    assert outcome.seconds < stage.seconds + 5, "it went on"
    said = says(outcome, "was asked to stop", code=130)
    return {"at_row": row, "said": said, **recovers(stage, scene)}


def interrupted_elsewhere(stage: Stage, rng: Rng) -> Facts:
    """At any moment, once: training or not."""
    scene, after = stage.scene(), _moment(stage, rng)
    process = scene.start()
    time.sleep(after)
    process.send(signal.SIGINT)
    outcome = process.ended()
    assert outcome.code in (0, 130), outcome.text[-2000:]  # 0: it had ended
    assert "Traceback" not in outcome.text, outcome.text[-2000:]
    return {"after_s": after, "steps_logged": _steps(scene), **recovers(stage, scene)}


def two_at_once(stage: Stage, rng: Rng) -> Facts:
    """Two processes start the same cell: one of them runs it."""
    scene, later = stage.scene(), float(rng.uniform(0, 0.5))
    first = scene.start()
    time.sleep(later)
    second = scene.start(output="second.txt")
    ended = [first.ended(), second.ended()]
    codes = sorted(outcome.code for outcome in ended)
    assert codes in ([0, 2], [0, 0]), [outcome.text[-1500:] for outcome in ended]
    refused = [outcome for outcome in ended if outcome.code == 2]
    said = [says(outcome, "another process runs this cell") for outcome in refused]
    return {"later_s": later, "said": said, **recovers(stage, scene)}


def stale_lock(stage: Stage, rng: Rng) -> Facts:
    """The lock file of a killed process is left behind."""
    scene, row = stage.scene(), int(rng.integers(1, ROWS))
    scene.run(spoil=at_row(row, die))
    assert (scene.cell.path / ".lock").exists()
    return {"at_row": row, **recovers(stage, scene)}


def moved(stage: Stage, rng: Rng) -> Facts:
    """Killed, and its sweep moved to another disk in between."""
    scene, row = stage.scene(), int(rng.integers(4, ROWS))
    scene.run(spoil=at_row(row, die))
    away = scene.folder / "away"
    shutil.move(scene.folder / "runs" / "s", away)
    (scene.folder / "elsewhere").mkdir()
    shutil.move(away, scene.folder / "elsewhere" / "s")
    facts = recovers(stage, Scene(scene.folder, "elsewhere/s"))
    return {"at_row": row, **facts}


def _steps(scene: Scene) -> int:
    rows = scene.cell.read_train_log()
    return int(rows[-1]["step"]) if rows else 0


FAULTS = (
    Fault("killed", "SIGKILL at any moment", killed),
    Fault("killed_again_and_again", "SIGKILL in training, three times", killed_again_and_again),
    Fault("killed_while_preparing", "SIGKILL while pictures and manifest are written", killed_while_preparing),
    Fault("terminated", "SIGTERM at any moment: exit code 0 in time", terminated),
    Fault("terminated_in_training", "SIGTERM in a step: it is finished and kept", terminated_in_training),
    Fault("terminated_in_a_long_step", "SIGTERM in a step that outlasts grace_s", terminated_in_a_long_step),
    Fault("interrupted_once", "SIGINT in training: the step is finished and kept", interrupted_once),
    Fault("interrupted_twice", "SIGINT twice in training: stops at once", interrupted_twice),
    Fault("interrupted_elsewhere", "SIGINT at any moment", interrupted_elsewhere),
    Fault("two_at_once", "two processes start the same cell", two_at_once),
    Fault("stale_lock", "the lock file of a killed process", stale_lock),
    Fault("moved", "killed, and the sweep's folder moved", moved),
)
