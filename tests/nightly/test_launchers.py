"""Sweeps on Hydra's launchers and sweepers, for real: `make nightly`, which installs the [sweep] extra."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import REPOSITORY, ManifestBuilder
from vlmbench.rundir import SweepDir

pytestmark = pytest.mark.nightly

TINY = (
    *("model=llama32_tiny", "trainer=debug", "source.num_parts=24", "tracking=off"),
    *("eval.limit=8", "eval.probes=false", "sweep=runs/s"),
)
DATA = "data=without_comparison,with_comparison"


def start(folder: Path, *arguments: str, settings: Sequence[str] = TINY) -> str:
    """The sweep's output, by way of a file: a launcher's helpers may outlive it and hold a pipe open. One thread a
    process: two that wait for each other's processors by spinning take minutes instead of seconds."""
    output = folder / "output.txt"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with output.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "vlmbench", "-m", *settings, *arguments],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=400,
            check=False,
        )
    said = output.read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, said[-4000:]
    return said


@pytest.mark.parametrize("launcher", ["ray", "submitit_local"])
def test_a_launcher_finishes_a_sweep_with_its_report(launcher: str, tmp_path: Path) -> None:
    plugin = {"ray": "hydra_ray_launcher", "submitit_local": "hydra_submitit_launcher"}[launcher]
    assert importlib.util.find_spec(f"hydra_plugins.{plugin}"), "pip install -c constraints.txt 'vlmbench[sweep]'"
    said = start(tmp_path, f"hydra/launcher={launcher}", DATA)
    sweep = SweepDir(tmp_path / "runs" / "s")
    assert [cell.read_status()["state"] for cell in sweep.cells()] == ["finished", "finished"]
    assert [cell.read_status()["data"] for cell in sweep.cells()] == ["without_comparison", "with_comparison"]
    assert (sweep.report / "index.html").exists()
    assert "report: runs/s/report/index.html" in said
    seconds = [cell.read_status()["time"] for cell in sweep.cells()]
    start(tmp_path, f"hydra/launcher={launcher}", DATA)  # again: nothing is left to do
    assert [cell.read_status()["time"] for cell in sweep.cells()] == seconds


def test_optuna_tries_ranks_and_rates_and_goes_on_where_it_was(tmp_path: Path) -> None:
    first = start(tmp_path, "experiment=tune", "hydra.sweeper.n_trials=3")
    sweep = SweepDir(tmp_path / "runs" / "s")
    tried = [cell.read_status()["overrides"] for cell in sweep.cells()]
    assert len(tried) == 3
    assert all(any(one.startswith("model.lora.r=") for one in overrides) for overrides in tried)
    best = max(cell.watched_value() or 0.0 for cell in sweep.cells())
    assert f"Best value: {best}" in first
    again = start(tmp_path, "experiment=tune", "hydra.sweeper.n_trials=4")
    assert again.count("is finished already") == 3
    assert [cell.read_status()["overrides"] for cell in sweep.cells()][:3] == tried
    assert len(sweep.cells()) == 4


def test_optuna_cuts_short_what_does_not_learn_and_leaves_it_when_it_goes_on(
    tmp_path: Path, manifest: ManifestBuilder
) -> None:
    """A dark square is easily learnt, but not at a learning rate of nothing: that stays at one answer, half right."""
    for number in range(30):
        manifest.add_part(100 + number)
        path = manifest.folder / "img" / f"{100 + number}-bad.png"
        with Image.open(path) as opened:
            marked = opened.convert("RGB")
        marked.paste((0, 0, 0), (number % 30, number % 20, number % 30 + 30, number % 20 + 30))
        marked.save(path)
    del manifest.rows[:30]  # of parts whose defect is nothing to see
    smol = (
        *("source=manifest", f"source.path={manifest.write()}", "view=raw", "prompt=short", "tracking=off"),
        *("trainer.max_steps=50", "trainer.batch_size=4", "trainer.eval_steps=25", "eval.probes=false", "sweep=runs/s"),
        *("experiment=tune", "pruner.startup_trials=1", "hydra.sweeper.n_trials=4", "eval.limit=8"),
        *("trainer.learning_rate=choice(5e-4,1e-9)", "model.lora.r=choice(4,8,16,32)"),
    )
    first = start(tmp_path, settings=smol)
    cells = SweepDir(tmp_path / "runs" / "s").cells()
    statuses = [cell.read_status() for cell in cells]
    # Of the four that seed 0 draws, the third is one of the others, and the last, which does not learn, is beside two.
    assert [status["state"] for status in statuses] == ["finished", "finished", "pruned"]
    rates = ["trainer.learning_rate=0.0005" in status["overrides"] for status in statuses]
    assert rates == [False, True, False]
    assert list(cells[2].watched()) == [25]
    assert f"Best value: {cells[1].watched_value()}" in first
    again = start(tmp_path, settings=smol)
    assert again.count("is finished already") == 3
    assert again.count("is pruned already") == 1
    assert f"Best value: {cells[1].watched_value()}" in again
    assert [cell.read_status()["time"] for cell in cells] == [status["time"] for status in statuses]
