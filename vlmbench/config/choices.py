"""The yaml files: which choices each config group has."""

from __future__ import annotations

import yaml

from vlmbench.config.registry import CONF, plugin_folder


def choices() -> dict[str, list[str]]:
    """Return the names of each config group's choices, those of VLMBENCH_PLUGINS among them."""
    plugins = plugin_folder()
    folders = [CONF] if plugins is None else [CONF, plugins / "conf"]
    names: dict[str, set[str]] = {}

    for path in (path for folder in folders for path in folder.glob("*/*.yaml")):
        names.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(names[group]) for group in sorted(names)}


def default_choices() -> dict[str, str]:
    """Return the choice of each config group in conf/config.yaml."""
    config = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    groups = [item for item in config["defaults"] if isinstance(item, dict)]
    return {
        group: f"[{','.join(name)}]" if isinstance(name, list) else str(name)
        for item in groups
        for group, name in item.items()
    }
