"""Stages that use a run, and phases of a run that are no training, killed in the middle."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from bench.faults.fault import Facts, Fault, Inject, Rng, require_message, require_recovery
from bench.faults.moments import at_log_row, die, when_opening
from bench.faults.trial import LOG_ROWS, Reference

NO_RUN = ()  # a stage that uses a run takes no settings of the run itself
PAGE_S = 60.0  # until the page of stage=serve is open


def _killed_when_writing(part: str, *, event: str = "open") -> Inject:
    """Kill the run when it writes a file with `part` in its path."""

    def inject(reference: Reference, rng: Rng) -> Facts:
        trial = reference.new_trial()
        outcome = trial.run(prepare=when_opening(part, die, event=event))
        assert outcome.code == -signal.SIGKILL, outcome.text[-2000:]
        return {"at": part, **require_recovery(reference, trial)}

    return inject


def _stage_killed(stage: str, part: str, result: str, *settings: str) -> Inject:
    """Kill a stage when it writes `part`: the run stays whole, and the stage works again."""

    def inject(reference: Reference, rng: Rng) -> Facts:
        trial = reference.new_trial(finished=True)
        before = _files(trial.run_folder.path)
        pair = sorted((trial.folder / "data").rglob("*.png"))[:2]
        named = [text.format(images=",".join(map(str, pair))) for text in settings]
        arguments = (f"stage={stage}", f"run={trial.run_folder.path}", *named)

        killed = trial.run(*arguments, command=NO_RUN, prepare=when_opening(part, die))
        assert killed.code == -signal.SIGKILL, killed.text[-2000:]
        after = _files(trial.run_folder.path)
        changed = [name for name, data in before.items() if after.get(name) != data]
        assert not changed, f"the stage changed {changed}"

        require_message(trial.run(*arguments, command=NO_RUN), code=0)
        assert list(trial.run_folder.path.rglob(result)), f"there is no {result}"
        return {"at": part, "then": "the stage works"}

    return inject


def killed_in_serve(reference: Reference, rng: Rng) -> Facts:
    """Kill a served page: the next one removes the images that were dropped on it."""
    trial = reference.new_trial(finished=True)
    temporary = trial.folder / "tmp"
    temporary.mkdir()
    arguments = ("stage=serve", f"run={trial.run_folder.path}", "serve.port=0")
    kwargs: dict[str, Any] = {"command": NO_RUN, "env": {"TMPDIR": str(temporary)}}

    page = trial.start(*arguments, **kwargs)
    _wait_for_page(page.output)
    (left,) = temporary.glob("vlmbench-uploads-*")
    (left / "images" / "part.png").write_bytes(b"a dropped image")
    page.send(signal.SIGKILL)
    page.wait()
    assert (left / "images" / "part.png").exists()

    page = trial.start(*arguments, **kwargs)
    _wait_for_page(page.output)
    assert not left.exists(), "the images of the killed page are left"
    page.send(signal.SIGTERM)
    require_message(page.wait(), code=0)
    assert not list(temporary.glob("vlmbench-uploads-*")), "the page left its own images"
    return {"then": "nothing is left"}


def terminated_in_evaluation(reference: Reference, rng: Rng) -> Facts:
    """Send SIGTERM when the predictions are written: exit code 0, and the run is ended later."""
    trial = reference.new_trial()
    terminate = when_opening(".predictions.jsonl.", lambda: os.kill(os.getpid(), signal.SIGTERM))
    require_message(trial.run(prepare=terminate), "was stopped by a signal", code=0)
    return require_recovery(reference, trial)


def hung_up(reference: Reference, rng: Rng) -> Facts:
    """Close the terminal (SIGHUP) in training: the run ends at once, and goes on later."""
    trial, row = reference.new_trial(), int(rng.integers(1, LOG_ROWS))
    trial.run(prepare=at_log_row(row, lambda: os.kill(os.getpid(), signal.SIGHUP)))
    return {"at_row": row, **require_recovery(reference, trial)}


def frozen(reference: Reference, rng: Rng) -> Facts:
    """Stop the process (SIGSTOP) at any moment, and let it go on: nothing is lost."""
    trial, after = reference.new_trial(), float(rng.uniform(0, reference.seconds))
    process = trial.start()
    time.sleep(after)
    process.send(signal.SIGSTOP)
    time.sleep(float(rng.uniform(0.5, 3)))
    process.send(signal.SIGCONT)
    require_message(process.wait(), code=0)
    return {"after_s": after, **require_recovery(reference, trial)}


def second_in_training(reference: Reference, rng: Rng) -> Facts:
    """Start the run again while it trains: the second process is refused, the first one ends."""
    trial, row = reference.new_trial(), int(rng.integers(1, LOG_ROWS))
    first = trial.start(prepare=at_log_row(row, lambda: time.sleep(4)))
    while not trial.run_folder.train_log.exists():
        assert time.monotonic() - first.started_at < PAGE_S, "the first run does not train"
        time.sleep(0.02)

    second = trial.start(output="second.txt").wait()
    message = require_message(second, "another process works in this folder")
    require_message(first.wait(), code=0)
    return {"at_row": row, "message": message, **require_recovery(reference, trial)}


def _files(folder: Path) -> dict[str, bytes]:
    """Return the content of a run's files, except its log and Hydra's."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".hydra" not in path.parts and path.suffix not in (".lock", ".log")
    }


def _wait_for_page(output: Path) -> None:
    deadline = time.monotonic() + PAGE_S
    while "in a browser; Ctrl-C stops it" not in output.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline, output.read_text(encoding="utf-8")[-2000:]
        time.sleep(0.05)


FAULTS = (
    Fault("frozen", "SIGSTOP at any moment, then SIGCONT", frozen),
    Fault("hung_up", "SIGHUP in training", hung_up),
    Fault("second_in_training", "a second process starts while the run trains", second_in_training),
    Fault(
        "terminated_in_evaluation",
        "SIGTERM while predictions are written",
        terminated_in_evaluation,
    ),
    Fault(
        "killed_at_status",
        "SIGKILL while the status is written",
        _killed_when_writing(".status.json."),
    ),
    Fault(
        "killed_at_seal",
        "SIGKILL while a checkpoint's checksums are written",
        _killed_when_writing(".checksums.json."),
    ),
    Fault(
        "killed_at_predictions",
        "SIGKILL while predictions are written",
        _killed_when_writing(".predictions.jsonl."),
    ),
    Fault(
        "killed_at_metrics",
        "SIGKILL while metrics are written",
        _killed_when_writing(".metrics.json."),
    ),
    Fault(
        "killed_in_report",
        "SIGKILL while the report is written",
        _killed_when_writing(".verdicts.json."),
    ),
    Fault(
        "killed_in_predict",
        "SIGKILL while stage=predict writes",
        _stage_killed("predict", ".answers.csv.", "answers.jsonl", "images=[{images}]"),
    ),
    Fault(
        "killed_in_export",
        "SIGKILL while stage=export writes",
        _stage_killed("export", "README.md", "decision_rules.json"),
    ),
    Fault("killed_in_serve", "SIGKILL to a served page", killed_in_serve),
)
