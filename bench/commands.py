"""Start vlmbench's command line, from this checkout, in another folder."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return `base` with this checkout as the first folder that Python imports from."""
    python_path = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return {**base, "PYTHONPATH": python_path}


def run_printed(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Run the command in a folder and print each line with its second; return the output."""
    lines, started = [], time.monotonic()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            print(f"{time.monotonic() - started:7.1f} {line}", end="", flush=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return "".join(lines)
