"""Does a sweep that is killed again and again end as one that runs undisturbed?

    python -m bench.killed [--kills 10] [--seed 0] [overrides of the sweep]

Both sweeps are `python -m vlmbench -m experiment=quick seed=0,1,2`. They run one after the other in
the same empty folder, because its name is in the predictions. Each makes its own data and caches.
One runs undisturbed. The other's processes are killed (SIGKILL) at random moments. The same command
is started again, until it was killed `--kills` times and has then ended by itself. The predictions
of every run are compared byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import commands, record
from vlmbench.runs.folder import RunDir
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import UserError

KILLED_SHARE = 0.8  # of the time of an undisturbed sweep, spent before the last kill
SWEEP = ("-m", "experiment=quick", "seed=0,1,2", "tracking=off", "sweep=runs/sweep")


def main() -> None:
    """Run both sweeps, compare them, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--out", default="", help="end of the result file's name")
    arguments, overrides = parser.parse_known_args()

    command = [sys.executable, "-m", "vlmbench", *SWEEP, *overrides]
    figures = _compare_sweeps(command, num_kills=arguments.kills, seed=arguments.seed)
    path = record.write(record.result_name("killed", arguments.out), figures)
    print(f"\n{record.table(figures['kills'])}\n\n{record.table(figures['runs'])}")
    print(f"\nall equal: {figures['all_equal']}\n{path}")


def _compare_sweeps(command: Sequence[str], *, num_kills: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder, undisturbed = Path(name, "sweep"), Path(name, "undisturbed")
        started = time.monotonic()
        _start(command, folder).wait()
        seconds = time.monotonic() - started
        folder.rename(undisturbed)
        print(f"undisturbed: {seconds:.0f} s", flush=True)

        moments = _draw_moments(np.random.default_rng(seed), num_kills, seconds)
        kills = [_start_and_kill(command, folder, after) for after in moments]
        exit_code = _start(command, folder).wait()
        runs = [
            _compare(run.path, folder / run.path.relative_to(undisturbed))
            for run in _runs(undisturbed)
        ]

    return {
        "command": " ".join(["python", *command[1:]]),
        "undisturbed_s": seconds,
        "kills": kills,
        "last_exit_code": exit_code,
        "runs": runs,
        "all_equal": exit_code == 0 and all(run["same_predictions"] for run in runs),
    }


def _draw_moments(rng: np.random.Generator, number: int, seconds: float) -> list[float]:
    """Return after how many seconds each start is killed; together KILLED_SHARE of `seconds`.

    So kills fall in most parts of a sweep, and it does not end before the last of them.
    """
    return [float(after) for after in rng.dirichlet(np.ones(number)) * KILLED_SHARE * seconds]


def _start(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=commands.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _start_and_kill(command: Sequence[str], folder: Path, after: float) -> dict[str, Any]:
    """Start the sweep, and kill it with all its processes; return how far its runs had come."""
    process, started = _start(command, folder), time.monotonic()
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    row = {
        "after_s": time.monotonic() - started,
        "exit_code": process.returncode,
        "runs": _progress(folder),
    }
    print(json.dumps(row), flush=True)
    return row


def _runs(folder: Path) -> list[RunDir]:
    try:
        return SweepDir(folder / "runs" / "sweep").runs()
    except UserError:  # no run was started
        return []


def _progress(folder: Path) -> str:
    """Return the state and the last logged step of each run that was started."""
    progress = []
    for run in _runs(folder):
        rows = run.read_train_log()
        step = rows[-1]["step"] if rows else 0
        progress.append(f"{run.read_status()['state']} {step}")
    return ", ".join(progress)


def _compare(undisturbed: Path, killed: Path) -> dict[str, Any]:
    """Return whether two folders of one run hold the same predictions and the same adapter."""
    expected = (undisturbed / "predictions.jsonl").read_bytes()
    predictions = killed / "predictions.jsonl"
    weights = (undisturbed / "adapter").glob("*.safetensors")
    return {
        "run": undisturbed.name,
        "predictions": expected.count(b"\n"),
        "same_predictions": predictions.exists() and predictions.read_bytes() == expected,
        "same_adapter": all(
            (killed / path.relative_to(undisturbed)).read_bytes() == path.read_bytes()
            for path in weights
        ),
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
