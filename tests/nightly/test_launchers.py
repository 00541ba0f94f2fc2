"""Sweeps on Hydra's launchers and sweepers; `make nightly` installs them (the [sweep] extra)."""

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
from vlmbench.runs.sweep import SweepDir

pytestmark = pytest.mark.nightly

TINY = (
    *("model=llama32_tiny", "trainer=debug", "source.num_parts=24", "tracking=off"),
    *("eval.limit=8", "eval.probes=false", "sweep=runs/s"),
)
VARIANTS = ["without_comparison", "with_comparison"]
DATA = f"data={','.join(VARIANTS)}"
PLUGINS = {"ray": "hydra_ray_launcher", "submitit_local": "hydra_submitit_launcher"}


def start(folder: Path, *arguments: str, settings: Sequence[str] = TINY) -> str:
    """Run a sweep and return its output.

    The output goes through a file: helpers of a launcher may outlive it and hold a pipe open. Each
    process has one thread: two processes that spin while they wait for each other's processors take
    minutes instead of seconds.
    """
    path = folder / "output.txt"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with path.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "vlmbench", "-m", *settings, *arguments],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=400,
            check=False,
        )

    output = path.read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, output[-4000:]
    return output


@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_launcher_finishes_a_sweep_with_its_report(launcher: str, tmp_path: Path) -> None:
    is_installed = importlib.util.find_spec(f"hydra_plugins.{PLUGINS[launcher]}")
    assert is_installed, "pip install -c constraints.txt 'vlmbench[sweep]'"

    output = start(tmp_path, f"hydra/launcher={launcher}", DATA)
    sweep = SweepDir(tmp_path / "runs" / "s")
    statuses = [run.read_status() for run in sweep.runs()]
    assert [status["state"] for status in statuses] == ["finished", "finished"]
    assert [status["data"] for status in statuses] == VARIANTS
    assert (sweep.report / "index.html").exists()
    assert "report: runs/s/report/index.html" in output

    start(tmp_path, f"hydra/launcher={launcher}", DATA)  # again: there is nothing left to do
    times = [status["time"] for status in statuses]
    assert [run.read_status()["time"] for run in sweep.runs()] == times


def test_optuna_tries_settings_names_the_best_and_continues(tmp_path: Path) -> None:
    first = start(tmp_path, "experiment=tune", "hydra.sweeper.n_trials=3")
    sweep = SweepDir(tmp_path / "runs" / "s")
    tried = [run.read_status()["overrides"] for run in sweep.runs()]
    assert len(tried) == 3
    for overrides in tried:
        assert any(override.startswith("model.lora.r=") for override in overrides)
    best = max(run.validation_value() or 0.0 for run in sweep.runs())
    assert f"Best value: {best}" in first
    assert "it is of the validation records that chose among 3 runs" in first

    again = start(tmp_path, "experiment=tune", "hydra.sweeper.n_trials=4")
    assert again.count("is finished already") == 3
    assert [run.read_status()["overrides"] for run in sweep.runs()][:3] == tried
    assert len(sweep.runs()) == 4


def add_dark_squares(manifest: ManifestBuilder) -> None:
    """Replace the parts by 30 parts whose defect is a dark square, which is easy to learn."""
    for number in range(30):
        manifest.add_part(100 + number)
        path = manifest.folder / "img" / f"{100 + number}-bad.png"
        with Image.open(path) as file:
            image = file.convert("RGB")

        left, top = number % 30, number % 20
        image.paste((0, 0, 0), (left, top, left + 30, top + 30))
        image.save(path)
    del manifest.rows[:30]  # the first parts' defect is not visible


def test_optuna_prunes_a_run_that_does_not_learn_and_skips_it_later(
    tmp_path: Path, manifest: ManifestBuilder
) -> None:
    """With a learning rate near 0, a run stays at one answer, which is right half of the time."""
    add_dark_squares(manifest)
    settings = (
        f"source.path={manifest.write()}",
        *("source=manifest", "view=raw", "prompt=short", "tracking=off", "sweep=runs/s"),
        *("trainer.max_steps=50", "trainer.batch_size=4", "trainer.eval_steps=25"),
        *("eval.probes=false", "eval.limit=8", "experiment=tune", "pruner.startup_trials=1"),
        *("hydra.sweeper.n_trials=4", "trainer.learning_rate=choice(5e-4,1e-9)"),
        "model.lora.r=choice(4,8,16,32)",
    )
    first = start(tmp_path, settings=settings)
    runs = SweepDir(tmp_path / "runs" / "s").runs()
    statuses = [run.read_status() for run in runs]

    # Seed 0 draws four trials. The third repeats an earlier one, and the last does not learn: it is
    # compared with two finished runs.
    assert [status["state"] for status in statuses] == ["finished", "finished", "pruned"]
    learns = ["trainer.learning_rate=0.0005" in status["overrides"] for status in statuses]
    assert learns == [False, True, False]
    assert list(runs[2].validation_curve()) == [25]
    assert f"Best value: {runs[1].validation_value()}" in first

    again = start(tmp_path, settings=settings)
    assert again.count("is finished already") == 3
    assert again.count("is pruned already") == 1
    assert f"Best value: {runs[1].validation_value()}" in again
    times = [status["time"] for status in statuses]
    assert [run.read_status()["time"] for run in runs] == times
