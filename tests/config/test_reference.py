"""Every setting is documented, and every yaml shows the defaults of its dataclass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from vlmbench.cli import job  # noqa: F401 - registers the resolvers of conf/config.yaml
from vlmbench.config import CONF, RunConfig, SettingRow, describe_settings, schemas

# Choices whose values differ from their dataclass on purpose, with the keys that differ.
DIFFERENCES = {
    "trainer/debug": {"max_steps", "batch_size", "log_steps", "eval_steps", "eval_records"},
    "pruner/off": {"enabled"},
    "store/off": {"enabled"},
    "tracking/online": {"mode"},
    "tracking/off": {"mode"},
    "data/with_views": {"comparison"},
    "data/with_shapes": {"comparison"},
}
# Without a default in the dataclass: the wording of a language.
WORDING = {"questions", "labels", "phrases", "rewordings"}
YAMLS = sorted(
    path for path in CONF.rglob("*.yaml") if path.parent.name not in (CONF.name, "experiment")
)
ROWS = describe_settings()


def flatten(values: dict[str, Any], node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield the full keys of a yaml's values. A nested dataclass is not a key itself."""
    for key, value in values.items():
        within = OmegaConf.select(node, f"{prefix}{key}", throw_on_missing=False)
        if isinstance(within, DictConfig) and is_dataclass(OmegaConf.get_type(within)):
            yield from flatten(value, node, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def compose_group(path: Path) -> tuple[DictConfig, dict[str, Any]]:
    """Return the composed group of a yaml, and the values that the yaml itself sets."""
    group = path.parent.name
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"{group}={path.stem}", "run_label=x"])

    own = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    # Several baselines are in a run, each under its own name.
    node = config[group][path.stem] if group == "baseline" else config[group]
    return node, {key: value for key, value in own.items() if key != "defaults"}


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_yaml_shows_the_defaults_of_its_dataclass(path: Path) -> None:
    name = f"{path.parent.name}/{path.stem}"
    node, own = compose_group(path)
    defaults = OmegaConf.structured(OmegaConf.get_type(node))

    differing = set()
    for key in flatten(own, node):
        values = [
            OmegaConf.select(config, key, default="???", throw_on_missing=False)
            for config in (node, defaults)
        ]
        if key not in WORDING and values[0] != values[1]:
            differing.add(key)

    assert differing == DIFFERENCES.get(name, set())


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_yaml_shows_every_setting(path: Path) -> None:
    group, choice = path.parent.name, path.stem
    node, own = compose_group(path)
    defaults = OmegaConf.load(path).defaults
    if not str(defaults[0]).startswith("/schema/"):
        pytest.skip("it changes another choice")

    prefix = f"{choice}." if group == "baseline" else ""
    documented = {
        row.key.removeprefix(prefix)
        for row in ROWS
        if row.group == group and row.choice in ("", choice)
    }
    assert set(flatten(own, node)) >= documented


def test_the_main_yaml_shows_every_setting_with_its_default() -> None:
    own = OmegaConf.load(CONF / "config.yaml")
    defaults = OmegaConf.structured(RunConfig)
    documented = {row.key for row in ROWS if not row.group}
    assert set(map(str, own)) - {"defaults", "hydra"} == documented

    for key in documented - {"sweep", "run_label"}:
        assert own[key] == OmegaConf.to_container(defaults)[key], key


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ".".join((row.group, row.choice, row.key)))
def test_every_setting_has_a_meaning(row: SettingRow) -> None:
    assert row.meaning.endswith(".")
    assert len(row.meaning.split()) <= 25
    assert row.type
    assert row.type != "any"
    assert row.default


def test_the_reference_covers_every_group_and_choice() -> None:
    for path in YAMLS:
        choices = {row.choice for row in ROWS if row.group == path.parent.name}
        derived = not str(OmegaConf.load(path).defaults[0]).startswith("/schema/")
        schema = schemas(path.parent.name).get(path.stem)
        has_settings = schema is None or bool(fields(schema))
        assert derived or not has_settings or choices & {"", path.stem}, path


def test_a_row_reads_as_in_the_reference() -> None:
    rows = {(row.group, row.choice, row.key): row[3:6] for row in ROWS}

    assert rows["trainer", "", "batch_size"] == ("int or auto", "8", "at least 1")
    assert rows["trainer", "", "learning_rate"] == ("float", "0.0005", "between 0 and 1")
    assert rows["model", "phi3_tiny", "lora.r"] == ("int", "4", "at least 1")
    assert rows["eval", "", "method"] == ("score or generate", "score", "")
    assert rows["source", "folder", "path"] == ("str", "required", "")
    assert rows["data", "with_comparison", "comparison"][:2] == (
        "list of views or shapes",
        "[views, shapes]",
    )
