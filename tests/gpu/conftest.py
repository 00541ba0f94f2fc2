"""Full-size models with random weights in memory, and runs as processes of their own: Unsloth changes transformers
when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlmbench.rundir import RunDir, SweepDir

MEMORY = Path("/dev/shm")  # noqa: S108
PROCESS_TIMEOUT = 540  # seconds


def start(name: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start `python ARGUMENTS`, its output in $OUT/<name>.log or in `cwd`."""
    log = Path(os.environ.get("OUT", cwd)) / f"{name}.log"
    repository = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{repository}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=cwd, env=environment, text=True, stdout=file, stderr=subprocess.STDOUT
        )


def run(name: str, *arguments: str, cwd: Path) -> str:
    """Run it to its end. Gives all that was printed under this name."""
    assert start(name, *arguments, cwd=cwd).wait(PROCESS_TIMEOUT) == 0, f"{name} failed; see its log"
    return (Path(os.environ.get("OUT", cwd)) / f"{name}.log").read_text()


def only_cell(folder: Path) -> RunDir:
    """The one cell of the one sweep below a folder."""
    (sweep,) = (folder / "runs").iterdir()
    (cell,) = SweepDir(sweep).cells()
    return RunDir(cell.path)


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Where the runs of a session keep generated pictures."""
    folder = tmp_path_factory.mktemp("gpu")
    return f"data_dir={folder / 'data'}", f"cache_dir={folder / 'cache'}"
