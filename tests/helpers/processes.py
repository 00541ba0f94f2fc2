"""Runs as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108


PROCESS_TIMEOUT = 540  # seconds


def start(name: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start `python ARGUMENTS`; its output goes to $OUT/<name>.log, or to `cwd`."""
    repository = Path(__file__).parents[2]
    python_path = f"{repository}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with log_path(name, cwd).open("a") as file:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": python_path},
            text=True,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def run(name: str, *arguments: str, cwd: Path) -> str:
    """Run `python ARGUMENTS` to its end; return everything printed under this name."""
    code = start(name, *arguments, cwd=cwd).wait(PROCESS_TIMEOUT)
    assert code == 0, f"{name} failed; see {log_path(name, cwd)}"
    return log_path(name, cwd).read_text()


def log_path(name: str, cwd: Path) -> Path:
    return Path(os.environ.get("OUT", cwd)) / f"{name}.log"
