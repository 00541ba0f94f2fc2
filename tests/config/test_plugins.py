"""Plug-ins outside of the package: the folder that VLMBENCH_PLUGINS names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from tests.conftest import REPOSITORY
from vlmbench.config import CONF
from vlmbench.config.registry import (
    PLUGIN_PACKAGES,
    PLUGINS_VARIABLE,
    module_folders,
    register_plugins,
)
from vlmbench.metrics import all_metrics
from vlmbench.types import UserError

EXAMPLES = REPOSITORY / "examples"
FILES = {
    "alarm_rate.py": "metrics",
    "edges.py": "data/views",
    "edges.yaml": "conf/view",
}


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder with a metric and a view that VLMBENCH_PLUGINS names, for one test."""
    folder = tmp_path / "plugins"
    for name, subfolder in FILES.items():
        path = folder / subfolder / name
        path.parent.mkdir(parents=True)
        path.write_bytes((EXAMPLES / name).read_bytes())

    monkeypatch.setenv(PLUGINS_VARIABLE, str(folder))
    for name in (*PLUGIN_PACKAGES, "vlmbench.metrics"):
        package = import_module(name)
        monkeypatch.setattr(package, "__path__", list(package.__path__))

    yield folder

    sys.modules.pop("vlmbench.metrics.alarm_rate", None)
    sys.modules.pop("vlmbench.data.views.edges", None)
    ConfigStore.instance().repo["schema"]["view"].pop("edges.yaml", None)


def test_a_view_and_its_yaml_file_are_found(plugins: Path) -> None:
    register_plugins()

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=["view=edges"])
    assert config.view.name == "edges"


def test_a_metric_is_found(plugins: Path) -> None:
    assert {"accuracy", "alarm_rate"} <= set(all_metrics())


def test_vlmbench_s_own_files_come_first(plugins: Path) -> None:
    (plugins / "conf/view/rt.yaml").write_text("window: 31\n", encoding="utf-8")
    register_plugins()

    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("config").view.window == 9


def test_a_module_with_the_name_of_one_of_vlmbench_s_own_is_refused(plugins: Path) -> None:
    (plugins / "data/views/rt.py").write_text("", encoding="utf-8")

    with pytest.raises(UserError, match=r"views/rt\.py: .* rename the file to my_rt\.py"):
        register_plugins()


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_the_working_folder_is_not_searched(
    value: str | None, plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(plugins)
    monkeypatch.delenv(PLUGINS_VARIABLE)
    if value is not None:
        monkeypatch.setenv(PLUGINS_VARIABLE, value)

    for package in (*PLUGIN_PACKAGES, "vlmbench.metrics"):
        (folder,) = module_folders(package)
        assert Path(folder).is_relative_to(REPOSITORY)


def test_a_folder_that_does_not_exist_is_a_message_of_the_command_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "vlmbench", "--cfg", "job"],
        env=os.environ | {PLUGINS_VARIABLE: "nowhere", "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: VLMBENCH_PLUGINS=nowhere: the folder does not exist")
    assert "Traceback" not in result.stderr
