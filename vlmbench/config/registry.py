"""The registry of settings: Hydra's ConfigStore. `schema` is its only entrance.

The environment variable VLMBENCH_PLUGINS names a folder of plug-ins outside of the package. It has
the layout of the repository: metrics/, data/views/, ... and conf/. Its modules run with the rights
of the user. So only this variable names the folder, and never the working folder.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from vlmbench.types import UserError

T = TypeVar("T")
PACKAGE = Path(__file__).resolve().parents[1]
# Beside the package in a checkout, inside it in an installed wheel.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
TEXT_SCHEME, TEXT_SOURCE = "vlmbench", "vlmbench.config.source"  # how Hydra reads the yaml files
PLUGINS_VARIABLE = "VLMBENCH_PLUGINS"

# Importing these registers every plug-in's schema: a new file in one of them needs no edit
# elsewhere.
PLUGIN_PACKAGES = (
    "vlmbench.backbones",
    "vlmbench.baselines",
    "vlmbench.data.sources",
    "vlmbench.data.variants",
    "vlmbench.data.views",
)


def schema(group: str, name: str) -> Callable[[type[T]], type[T]]:
    """Return a decorator that makes a dataclass the schema of conf/<group>/<name>.yaml.

    The yaml starts with `defaults: [/schema/<group>/<name>@_here_, _self_]`. Raise ValueError if
    another dataclass has this name.
    """

    def register(node: type[T]) -> type[T]:
        registered = schemas(group).get(name, node)
        if registered is not node:
            raise ValueError(
                f"schema {group}/{name} is registered twice: {node.__module__}.{node.__name__}"
            )

        ConfigStore.instance().store(group=f"schema/{group}", name=name, node=node)
        return node

    return register


def schemas(group: str) -> dict[str, type]:
    """Return the registered dataclasses of a config group by their names."""
    nodes = ConfigStore.instance().repo.get("schema", {}).get(group, {})
    return {
        name.removesuffix(".yaml"): node.node._metadata.object_type for name, node in nodes.items()
    }


def register_plugins() -> None:
    """Import every plug-in module, which registers its schema with Hydra.

    Raise UserError if VLMBENCH_PLUGINS names a folder that cannot be used.
    """
    Plugins.instance().register(PluginSearchPath)
    importlib.import_module(TEXT_SOURCE)  # it stands on this file

    for package in PLUGIN_PACKAGES:
        for name in module_names(module_folders(package)):
            importlib.import_module(f"{package}.{name}")


def plugin_folder() -> Path | None:
    """Return the folder that VLMBENCH_PLUGINS names; None if it is not set.

    Raise UserError if the folder does not exist.
    """
    value = os.environ.get(PLUGINS_VARIABLE, "")
    if not value:
        return None

    folder = Path(value).absolute()
    if not folder.is_dir():
        raise UserError(
            f"{PLUGINS_VARIABLE}={value}: the folder does not exist; create it, or remove the "
            f"variable with unset {PLUGINS_VARIABLE}"
        )
    return folder


def module_folders(package: str) -> tuple[str, ...]:
    """Return the folders of a plug-in package, after adding that of VLMBENCH_PLUGINS to them.

    Raise UserError if a module there has the name of one of the package.
    """
    path: list[str] = importlib.import_module(package).__path__  # type: ignore[assignment]
    root = plugin_folder()
    if root is None:
        return tuple(path)

    folder = root.joinpath(*package.split(".")[1:])
    if str(folder) not in path:
        taken = sorted(set(module_names(path)) & set(module_names([str(folder)])))
        if taken:
            raise UserError(
                f"{folder / taken[0]}.py: {package} has a module of this name already; "
                f"rename the file to my_{taken[0]}.py"
            )
        path.append(str(folder))

    return tuple(path)


def module_names(folders: Sequence[str]) -> list[str]:
    """Return the sorted names of the plug-in modules in folders. A leading "_" marks others."""
    names = {module.name for module in pkgutil.iter_modules(folders)}
    return sorted(name for name in names if not name.startswith("_"))


class PluginSearchPath(SearchPathPlugin):
    """Let Hydra read conf/ in the folder of plug-ins, after vlmbench's own; texts are texts."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for element in search_path.get_path():
            if element.path.removeprefix("file://") == str(CONF):
                element.path = f"{TEXT_SCHEME}://{CONF}"

        folder = plugin_folder()
        if folder is not None:
            search_path.append(provider="plugins", path=f"{TEXT_SCHEME}://{folder / 'conf'}")


def runnable_models() -> list[str]:
    """Return the names of the models that this machine can run with their default settings.

    Download nothing.
    """
    return sorted(name for name, model in schemas("model").items() if not model().requirements())
