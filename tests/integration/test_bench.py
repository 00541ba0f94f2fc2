"""The benchmarks of whole models run, on the tiny ones: what they say of speed here means nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def bench(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """What `python -m bench.NAME` records on the tiny model."""
    results = folder / "results"
    command = [sys.executable, "-m", f"bench.{name}", "--tiny", "--memory", str(folder), *arguments]
    environment = {**os.environ, "BENCH_RESULTS": str(results), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = results.iterdir()
    figures: dict[str, Any] = json.loads(result.read_text())
    return figures


def test_stored_tokens_give_the_losses_of_tokens_that_are_not(tmp_path: Path) -> None:
    figures = bench(tmp_path, "losses", "--steps", "3", "--batch", "2")
    first, again, stored = figures["losses"].values()
    assert len(first) == 3
    assert first == again == stored


def test_training_is_measured_beside_the_recipe_of_others(tmp_path: Path) -> None:
    figures = bench(tmp_path, "training", "--workload", "pair-336x4", "--sides", "ours,trl", "--batches", "2")
    assert figures["hit_rate"] == 1
    assert figures["ratio_trl"] == pytest.approx(figures["ours_samples_per_s"] / figures["trl_samples_per_s"])


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("training", ["--pictures", "400", "--prefill", "--host-gb", "0", "--device-gb", "0.001", "--sides", "ours"]),
        ("training", ["--workload", "unique", "--sides", "ours,ours_uncached"]),
        ("training", ["--vision", "lora", "--sides", "ours", "--batches", "4"]),
        ("evaluation", ["--batches", "32"]),
        ("store", []),
        ("parallel", ["--batch", "4"]),
        ("sweep", ["--cells", "2", "--steps", "4", "--sides", "ours"]),
        ("startup", ["--steps", "4"]),
        ("export", []),
    ],
    ids=lambda one: one if isinstance(one, str) else "-".join(one[:2]).strip("-"),
)
def test_the_others_run(tmp_path: Path, name: str, arguments: list[str]) -> None:
    assert bench(tmp_path, name, *arguments)["machine"]["device"]
