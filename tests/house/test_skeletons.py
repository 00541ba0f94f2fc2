"""The skeletons of CONTRIBUTING.md work: each is added to a copy of the package and run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.skeletons import ROOT, write_skeletons

COMMAND = (
    *("model=mine_tiny", "source=mine", "source.num_parts=20", "data=mine", "view=mine"),
    *("trainer=debug", "eval.limit=4", "tracking=off", "sweep=runs/mine"),
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package and its settings with every skeleton added."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("vlmbench", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    write_skeletons(folder)
    return folder


def test_a_run_with_every_skeleton_ends_with_the_new_figure(copy: Path) -> None:
    run_python(copy, "-m", "vlmbench", *COMMAND)

    (metrics,) = copy.glob("runs/mine/*/metrics.json")
    assert "alarm_rate" in json.dumps(json.loads(metrics.read_text(encoding="utf-8")))
    report = (copy / "runs/mine/report/index.html").read_text(encoding="utf-8")
    assert "Share of records that the model calls abnormal or different." in report


def test_the_skeletons_pass_the_checks_of_the_code(copy: Path) -> None:
    files = [str(path) for path in copy.glob("vlmbench/**/mine.py")]
    assert len(files) == 5
    settings = ("--config", str(ROOT / "pyproject.toml"))
    run_python(copy, "-m", "ruff", "check", *settings, *files)
    run_python(copy, "-m", "ruff", "format", "--check", *settings, *files)


def run_python(folder: Path, *arguments: str) -> None:
    """Run Python in `folder`, with the package of that folder."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
