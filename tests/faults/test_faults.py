"""Test some rows of the fault matrix at one moment each; `make faults` tries all at several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import REPOSITORY

ROWS = (
    "killed_again_and_again",
    "terminated_in_training",
    "two_at_once",
    "checkpoint_cut",
    "full_at_checkpoint",
    "predictions_flipped",
    "status_cut",
    "full_gpu_with_auto",
    "image_edited",
    "clock_backwards",
)


@pytest.fixture(scope="module")
def matrix() -> dict[str, dict[str, Any]]:
    """Return the try of each row; its process has no threads, because it forks the runs."""
    options = ["--moments", "1", "--seed", "1", "--no-record", "--only", *ROWS]
    done = subprocess.run(
        [sys.executable, "-m", "bench.faults", *options],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )

    lines = [line.partition(": ") for line in done.stdout.splitlines()]
    tries = {name: json.loads(facts) for name, _, facts in lines if name in ROWS}
    assert tries, done.stderr[-3000:]
    return tries


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_after_a_fault_a_run_ends_as_if_nothing_had_happened(
    matrix: dict[str, dict[str, Any]], row: str
) -> None:
    result = matrix[row]
    if str(result.get("reason", "")).startswith("not tried"):
        pytest.skip(result["reason"])
    assert result["held"], result["reason"]
