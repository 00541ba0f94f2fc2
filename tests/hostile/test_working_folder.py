"""Nothing in the working folder is obeyed: modules, settings of other packages, links of a cache.

To add one: a line in SHADOWS.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Not `importlib`: Python itself imports it before vlmbench starts. The command `vlmbench` and
# PYTHONSAFEPATH=1 never have the working folder on the path.
SHADOWS = (
    *("typing", "json", "re", "dataclasses", "logging", "signal", "shlex", "yaml"),
    *("hydra", "omegaconf", "torch", "numpy", "msgspec", "xxhash", "filelock", "transformers"),
    *("wandb", "sitecustomize", "usercustomize", "hydra_plugins", "conf", "matplotlib", "PIL"),
)
EVIL = "open('owned', 'w').close()\nraise SystemExit('owned')\n"


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call Python in a folder; vlmbench is found as if it was installed."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(EVIL)
    return tmp_path


@pytest.mark.slow
def test_modules_of_the_working_folder_do_not_run(shadowed: Path) -> None:
    done = call(shadowed, "-m", "vlmbench", "--cfg", "job", "seed=7")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "seed: 7" in done.stdout
    assert not (shadowed / "owned").exists()


def test_packages_of_the_working_folder_do_not_run(tmp_path: Path) -> None:
    for name in SHADOWS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(EVIL)
    done = call(tmp_path, "-m", "vlmbench", "--version")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("vlmbench ")
    assert not (tmp_path / "owned").exists()


WANDB = """
import sys
from vlmbench.tracking.tracker import import_wandb

settings = import_wandb().setup().settings
print(settings.base_url, settings.entity, settings.project)
"""


@pytest.mark.parametrize("folder", ["wandb", ".wandb"])
def test_wandb_settings_of_the_working_folder_are_not_obeyed(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "settings").write_text(
        "[default]\nbase_url = http://127.0.0.1:19998\nentity = attacker\nproject = stolen\n"
    )
    done = call(tmp_path, "-c", WANDB)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "127.0.0.1" not in done.stdout
    assert "attacker" not in done.stdout
    assert "stolen" not in done.stdout


PLOTS = """
from vlmbench.report.plots import svg
import matplotlib

svg.draw(lambda axes: axes.plot([1, 2]), key="k", label="l", size=(2, 2))
print(matplotlib.rcParams["text.usetex"], matplotlib.rcParams["backend"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_matplotlibrc_of_the_working_folder_is_not_obeyed(tmp_path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / "matplotlibrc")
    else:
        (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 90\n")
    done = call(tmp_path, "-c", PLOTS)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("False")


@pytest.mark.slow
@pytest.mark.parametrize("trap", [".hydra", "vlmbench.log"])
def test_hydra_does_not_write_through_a_link_of_the_cache(tmp_path: Path, trap: str) -> None:
    folder = tmp_path / ".cache" / "stages" / "report"
    folder.mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    (folder / trap).symlink_to(tmp_path / "precious")
    done = call(tmp_path, "-m", "vlmbench", "stage=report", "sweep=none")
    assert done.returncode == 2, done.stderr[-2000:]
    assert "a link, a pipe or a device must not be in a folder" in done.stderr
    assert not list((tmp_path / "precious").iterdir())

    (folder / trap).unlink()  # the cure
    again = call(tmp_path, "-m", "vlmbench", "stage=report", "sweep=none")
    assert "a link, a pipe or a device" not in again.stderr


def test_modules_compiled_by_unsloth_are_not_in_the_working_folder() -> None:
    text = (REPOSITORY / "vlmbench" / "backbones" / "_unsloth.py").read_text(encoding="utf-8")
    before_import = text.partition("import unsloth")[0]
    assert "XDG_CACHE_HOME" in before_import
    assert 'Path(".cache"' not in before_import
