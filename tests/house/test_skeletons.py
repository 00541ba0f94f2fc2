"""The skeletons of CONTRIBUTING.md work: each alone in a folder of plug-ins, and all in one run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.skeletons import ROOT, skeletons_by_kind, write_plugins, write_skeletons

COMMAND = (
    *("model=mine_tiny", "source=mine", "source.num_parts=20", "data=mine", "view=mine"),
    "baseline=[majority,mine]",
    *("trainer=debug", "eval.limit=4", "tracking=off", "sweep=runs/mine"),
)
# How many files a new plug-in of each kind needs.
NUM_FILES = {
    **dict.fromkeys(("A source", "A variant", "A view", "A baseline"), 2),
    "A metric": 1,
    "A backbone": 3,
}
# A command that fails without the plug-in, and what it prints.
ALONE = {
    "A source": (("source=mine", "--cfg", "job"), "num_parts: 40"),
    "A variant": (("data=mine", "--cfg", "job"), "split_seed: 0"),
    "A view": (("view=mine", "--cfg", "job"), "name: mine"),
    "A baseline": (("baseline=[mine]", "--cfg", "job"), "  mine: {}"),
    "A backbone": (("model=mine_tiny", "--cfg", "job"), "max_tokens:"),
}
LIST_METRICS = "from vlmbench.metrics import all_metrics; print(sorted(all_metrics()))"


def test_a_plug_in_touches_few_files() -> None:
    files = skeletons_by_kind()
    assert {kind: len(paths) for kind, paths in files.items()} == NUM_FILES
    for path in (path for paths in files.values() for path in paths):
        assert not (ROOT / path).exists(), f"{path} exists: a skeleton may only add files"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALONE)
def test_a_plug_in_is_found_with_its_own_files_alone(tmp_path: Path, kind: str) -> None:
    write_plugins(tmp_path, *skeletons_by_kind()[kind])
    arguments, expected = ALONE[kind]
    printed = run_python(ROOT, "-m", "vlmbench", *arguments, plugins=tmp_path)
    assert expected in printed


def test_a_metric_is_found_with_its_own_file_alone(tmp_path: Path) -> None:
    write_plugins(tmp_path, *skeletons_by_kind()["A metric"])
    assert "'mine'" in run_python(ROOT, "-c", LIST_METRICS, plugins=tmp_path)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package and its settings with every skeleton added."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("vlmbench", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    write_skeletons(folder)
    return folder


@pytest.mark.slow
def test_a_run_with_every_skeleton_ends_with_the_new_figure(copy: Path) -> None:
    run_python(copy, "-m", "vlmbench", *COMMAND)

    (metrics,) = copy.glob("runs/mine/*/metrics.json")
    assert "alarm_rate" in json.dumps(json.loads(metrics.read_text(encoding="utf-8")))
    report = (copy / "runs/mine/report/index.html").read_text(encoding="utf-8")
    assert "Share of records that the model calls abnormal or different." in report
    assert "the mean difference in grey" in report


def test_the_skeletons_pass_the_checks_of_the_code(copy: Path) -> None:
    files = [str(path) for path in copy.glob("vlmbench/**/mine.py")]
    assert len(files) == 6
    settings = ("--config", str(ROOT / "pyproject.toml"))
    run_python(copy, "-m", "ruff", "check", *settings, *files)
    run_python(copy, "-m", "ruff", "format", "--check", *settings, *files)


def run_python(folder: Path, *arguments: str, plugins: Path | str = "") -> str:
    """Run Python in `folder`, with the package of that folder, and return what it printed."""
    variables = {"PYTHONPATH": str(folder), "VLMBENCH_PLUGINS": str(plugins)}
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout
