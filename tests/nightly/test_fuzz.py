"""Coverage-guided fuzzing of all readers of files, a minute each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.nightly
SECONDS = 60


@pytest.mark.parametrize("target", ["image", "manifest", "run", "seal"])
def test_readers_raise_only_errors_that_the_user_can_mend(tmp_path: Path, target: str) -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, "-m", "tests.nightly.fuzz", target]
    limits = [f"-max_total_time={SECONDS}", "-timeout=10", "-rss_limit_mb=4096"]

    done = subprocess.run(
        [*command, *limits, f"-artifact_prefix={tmp_path}/"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )

    output = f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    assert done.returncode == 0, f"{list(tmp_path.iterdir())}\n{output}"
