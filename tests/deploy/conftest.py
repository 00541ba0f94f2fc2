"""Finished runs that the tests of this folder share."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CARDS
from vlmbench.config import register_plugins
from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.sweep import SweepDir

TINY = (
    "trainer=debug",
    "source.num_parts=24",
    "tracking=off",
    "data.split.train=0.4",
    "data.split.val=0.4",
)


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Callable[..., RunDir]:
    """Train a run once a session: `train("model=phi3_tiny")`. No test may change its folder."""
    from hydra.core.global_hydra import GlobalHydra

    from vlmbench.backbones import resident
    from vlmbench.cli.main import main

    made: dict[tuple[str, ...], RunDir] = {}
    data = tmp_path_factory.mktemp("data")

    def run(*overrides: str) -> RunDir:
        if overrides not in made:
            folder = tmp_path_factory.mktemp("finished")
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                patch.setenv("WANDB_MODE", "offline")
                patch.setenv(*CARDS)
                folders = (f"data_dir={data}", f"cache_dir={shared_cache}")
                patch.setattr(sys, "argv", ["vlmbench", *TINY, *folders, *overrides])
                main()
                GlobalHydra.instance().clear()
                resident.release()
            (sweep,) = (folder / "runs").glob("*/")
            (made[overrides],) = [
                RunDir(made_run.path.resolve()) for made_run in SweepDir(sweep).runs()
            ]
        return made[overrides]

    return run


@pytest.fixture(scope="session")
def finished(train: Callable[..., RunDir]) -> RunDir:
    """A run of the tiny Llama on pairs."""
    return train("model=llama32_tiny")


@pytest.fixture
def knowing(finished: RunDir, tmp_path: Path) -> RunDir:
    """Return a run with good validation answers: 60 records of 30 parts, 6 of them wrong."""
    from tests.helpers.predictions import answers
    from vlmbench.pipeline.calibrate import write_calibration

    copy = RunDir(tmp_path / "knowing")
    shutil.copytree(finished.path, copy.path)
    # Margins of the random model lie around -5.8. Those of the two labels lie around that.
    margins = [-5.8 + (1.0 if (i % 2 == 0) is (i >= 6) else -1.0) for i in range(60)]
    write_calibration(copy, answers(margins, [i % 2 == 0 for i in range(60)], part_size=2))
    content = copy.read_status()["run_hash"]
    copy.write_status(
        State.FINISHED,
        run_hash=content,
        model="llama32_tiny",
        data="without_comparison",
        seed=0,
    )
    return copy


@pytest.fixture(autouse=True, scope="session")
def _registered() -> None:
    register_plugins()
