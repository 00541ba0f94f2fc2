"""Coverage-guided fuzzing of everything that reads files: a minute each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.nightly
SECONDS = 60


@pytest.mark.parametrize("target", ["picture", "manifest", "run", "seal"])
def test_readers_raise_nothing_but_what_the_user_can_mend(tmp_path: Path, target: str) -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, "-m", "tests.nightly.fuzz", target, f"-max_total_time={SECONDS}", "-timeout=10"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    limits = ["-rss_limit_mb=4096", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run([*command, *limits], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{list(tmp_path.iterdir())}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
