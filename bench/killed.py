"""Does a sweep that is killed again and again end as one that is left alone?

    python -m bench.killed [--kills 10] [--seed 0] [overrides of the sweep]

Both sweeps are `python -m vlmbench -m experiment=quick seed=0,1,2`, one after the other in the same empty folder (its
name is in the predictions), where each makes its data and caches. One runs undisturbed. The other's processes are
killed (SIGKILL) at random moments and the same command is started again, until it has been killed `--kills` times and
has then ended by itself. What is compared, byte for byte, is the predictions of every cell.
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
from pathlib import Path
from typing import Any

import numpy as np

from bench import record
from vlmbench.rundir import RunDir, SweepDir
from vlmbench.types import UserError

REPOSITORY = Path(__file__).parents[1]
SPENT = 0.8
SWEEP = ("-m", "experiment=quick", "seed=0,1,2")


def main() -> None:
    """Run both sweeps, compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", default="", help="the end of the result file's name")
    arguments, overrides = parser.parse_known_args()
    command = [sys.executable, "-m", "vlmbench", *SWEEP, "tracking=off", "sweep=runs/sweep", *overrides]
    with tempfile.TemporaryDirectory() as folder:
        here, alone = Path(folder, "here"), Path(folder, "alone")
        started = time.monotonic()
        _start(command, here).wait()
        undisturbed = time.monotonic() - started
        here.rename(alone)
        print(f"undisturbed: {undisturbed:.0f} s", flush=True)
        moments = _moments(np.random.default_rng(arguments.seed), arguments.kills, undisturbed)
        kills = [_kill(command, here, after) for after in moments]
        code = _start(command, here).wait()
        cells = [_compare(cell.path, here / cell.path.relative_to(alone)) for cell in _cells(alone)]
    figures = {
        "command": " ".join(["python", *command[1:]]),
        "undisturbed_s": undisturbed,
        "kills": kills,
        "last_exit_code": code,
        "cells": cells,
        "all_equal": code == 0 and all(cell["same_predictions"] for cell in cells),
    }
    path = record.write(record.name("killed", arguments.out), figures)
    print(f"\n{record.table(kills)}\n\n{record.table(cells)}\n\nall equal: {figures['all_equal']}\n{path}")


def _moments(rng: np.random.Generator, kills: int, undisturbed: float) -> list[float]:
    """Seconds after each start, SPENT of an undisturbed sweep in all: kills fall in most of its parts, and it does not
    end before the last of them."""
    return [float(after) for after in rng.dirichlet(np.ones(kills)) * SPENT * undisturbed]


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    python_path = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": python_path},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _kill(command: list[str], folder: Path, after: float) -> dict[str, Any]:
    """Start the sweep, kill it with all its processes, and say how far its cells had come."""
    process, started = _start(command, folder), time.monotonic()
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    row = {"after_s": time.monotonic() - started, "exit_code": process.returncode, "cells": _states(folder)}
    print(json.dumps(row), flush=True)
    return row


def _cells(folder: Path) -> list[RunDir]:
    try:
        return SweepDir(folder / "runs" / "sweep").cells()
    except UserError:  # none was begun
        return []


def _states(folder: Path) -> str:
    """State and last logged step of each cell that was begun."""
    said = []
    for cell in _cells(folder):
        rows = cell.read_train_log()
        said.append(f"{cell.read_status()['state']} {rows[-1]['step'] if rows else 0}")
    return ", ".join(said)


def _compare(alone: Path, killed: Path) -> dict[str, Any]:
    predictions = (alone / "predictions.jsonl").read_bytes()
    other = killed / "predictions.jsonl"
    return {
        "cell": alone.name,
        "predictions": predictions.count(b"\n"),
        "same_predictions": other.exists() and other.read_bytes() == predictions,
        "same_adapter": all(
            (killed / path.relative_to(alone)).read_bytes() == path.read_bytes()
            for path in (alone / "adapter").glob("*.safetensors")
        ),
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
