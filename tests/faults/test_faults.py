"""Some rows of the fault matrix, one moment each; `make faults` tries all of them at more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import REPOSITORY

SELECTION = (
    *("killed_again_and_again", "terminated_in_training", "two_at_once", "checkpoint_cut", "full_at_checkpoint"),
    *("predictions_flipped", "status_cut", "full_gpu_with_auto", "picture_edited", "clock_backwards"),
)


@pytest.fixture(scope="module")
def matrix() -> dict[str, dict[str, Any]]:
    """In a process of its own: runs are forked from it, which one with threads must not do."""
    command = [sys.executable, "-m", "bench.faults", "--moments", "1", "--seed", "1", "--no-record", "--only"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([*command, *SELECTION], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    found = [line.partition(": ") for line in done.stdout.splitlines() if line.partition(": ")[0] in SELECTION]
    assert found, done.stderr[-3000:]
    return {name: json.loads(facts) for name, _, facts in found}


@pytest.mark.parametrize("name", SELECTION)
def test_after_a_fault_a_run_ends_as_if_nothing_had_been(matrix: dict[str, dict[str, Any]], name: str) -> None:
    tried = matrix[name]
    if str(tried.get("why", "")).startswith("not tried"):
        pytest.skip(tried["why"])
    assert tried["held"], tried["why"]
