"""Hydra's ConfigStore is the only registry of settings; `schema` is the only way into it."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from typing import TypeVar

from hydra.core.config_store import ConfigStore

from vlmbench.types import UserError

T = TypeVar("T")

# Importing these registers every plug-in's schema: a new file in one of them needs no edit elsewhere.
PLUGIN_PACKAGES = ("vlmbench.backbones", "vlmbench.data.sources", "vlmbench.data.variants", "vlmbench.data.views")


def schema(group: str, name: str) -> Callable[[type[T]], type[T]]:
    """Make the decorated dataclass the schema of conf/<group>/<name>.yaml; its build() makes the object.

    The yaml starts with `defaults: [/schema/<group>/<name>@_here_, _self_]`. Raises ValueError for a name taken twice.
    """

    def register(node: type[T]) -> type[T]:
        store = ConfigStore.instance()
        folder = store.repo.get("schema", {}).get(group, {})
        if f"{name}.yaml" in folder and folder[f"{name}.yaml"].node._metadata.object_type is not node:
            raise ValueError(f"schema {group}/{name} is registered twice: {node.__module__}.{node.__name__}")
        store.store(group=f"schema/{group}", name=name, node=node)
        return node

    return register


def register_plugins() -> None:
    """Import every plug-in module, so that its schema is known to Hydra."""
    for package in PLUGIN_PACKAGES:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{package}.{module.name}")


def runnable_models() -> list[str]:
    """Names of the models that this machine can run with their default settings. Downloads nothing."""
    nodes = ConfigStore.instance().repo["schema"]["model"]
    types = {name.removesuffix(".yaml"): node.node._metadata.object_type for name, node in nodes.items()}
    return sorted(name for name, type_ in types.items() if not type_().requirements())


def check_range(place: str, value: float | None, low: float, high: float = float("inf")) -> None:
    """Raise UserError unless `value` is None or within [low, high]."""
    if value is not None and not (low <= value <= high and value != math.inf):
        bound = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise UserError(f"{place}={value}: it must be {bound}; set {place}=<a value {bound}>")
