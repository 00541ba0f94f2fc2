"""Run the benchmarks of whole models on the tiny models; their speeds mean nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY


def bench(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Return what `python -m bench.NAME` records on the tiny model."""
    results = folder / "results"
    command = [sys.executable, "-m", f"bench.{name}", "--tiny", "--memory", str(folder), *arguments]
    environment = {**os.environ, "BENCH_RESULTS": str(results), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]

    (path,) = results.iterdir()
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


@pytest.mark.slow
def test_stored_tokens_give_the_losses_of_tokens_that_are_not_stored(tmp_path: Path) -> None:
    figures = bench(tmp_path, "losses", "--steps", "3", "--batch", "2")

    first, again, stored = figures["losses"].values()
    assert len(first) == 3
    assert first == again == stored


@pytest.mark.slow
def test_training_is_measured_beside_the_recipe_of_others(tmp_path: Path) -> None:
    options = ["--workload", "pair-336x4", "--recipes", "ours,trl", "--batches", "2"]
    figures = bench(tmp_path, "training", *options)

    assert figures["hit_rate"] == 1
    ratio = figures["ours_samples_per_s"] / figures["trl_samples_per_s"]
    assert figures["ratio_trl"] == pytest.approx(ratio)


NIGHTLY = {
    "training-prefilled": (
        *("training", "--recipes", "ours", "--images", "400", "--prefill"),
        *("--host-gb", "0", "--device-gb", "0.001"),
    ),
    "training-unique": ("training", "--workload", "unique", "--recipes", "ours,ours_uncached"),
    "training-vision": ("training", "--vision", "lora", "--recipes", "ours", "--batches", "4"),
    "evaluation": ("evaluation", "--batches", "32"),
    "store": ("store",),
    "parallel": ("parallel", "--batch", "4"),
    "sweep": ("sweep", "--runs", "2", "--steps", "4", "--recipes", "ours"),
    "startup": ("startup", "--steps", "4"),
    "whole": ("whole",),
    "export": ("export",),
    "lean": ("lean",),
}


@pytest.mark.nightly
@pytest.mark.parametrize("arguments", NIGHTLY.values(), ids=NIGHTLY)
def test_other_benchmarks_run(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert bench(tmp_path, *arguments)["machine"]["device"]
