"""Finished runs that the tests of this folder share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import call_vlmbench
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A run, the folder in which it was exported to `out`, and what the command printed."""

    run: RunDir
    folder: Path
    output: str

    @property
    def out(self) -> Path:
        return self.folder / "out"


@pytest.fixture(scope="session")
def train(
    tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, drawn: str
) -> Callable[..., RunDir]:
    """Train a run once a session: `train("model=phi3_tiny")`. No test may change its folder."""
    made: dict[tuple[str, ...], RunDir] = {}

    def run(*overrides: str) -> RunDir:
        if overrides not in made:
            folder = tmp_path_factory.mktemp("finished")
            call_vlmbench(folder, *TINY, drawn, f"cache_dir={shared_cache}", *overrides)
            (sweep,) = (folder / "runs").glob("*/")
            (made[overrides],) = [
                RunDir(made_run.path.resolve()) for made_run in SweepDir(sweep).runs()
            ]
        return made[overrides]

    return run


@pytest.fixture(scope="session")
def export(
    tmp_path_factory: pytest.TempPathFactory, train: Callable[..., RunDir]
) -> Callable[..., Exported]:
    """Train a run and export it once a session. No test may change its folders."""
    made: dict[tuple[str, ...], Exported] = {}

    def run(*overrides: str) -> Exported:
        if overrides not in made:
            run = train(*overrides)
            folder = tmp_path_factory.mktemp("exported")
            output = call_vlmbench(
                folder,
                *("stage=export", f"run={run.path}", "export.out=out", "export.parity_records=24"),
                'export.accept="self_pair,one_label,reference"',  # tiny models know nothing
            )
            made[overrides] = Exported(run=run, folder=folder, output=output)
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
