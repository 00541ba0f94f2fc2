"""The reference of all settings, read from the configuration dataclasses."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from vlmbench.config.registry import register_plugins, schemas
from vlmbench.config.run import RunConfig
from vlmbench.config.settings import DOCUMENTATION, Documentation

# In the order of conf/config.yaml.
GROUPS = (
    *("model", "source", "data", "view", "prompt", "trainer", "pruner", "store", "eval"),
    *("baseline", "tracking", "predict", "export", "serve"),
)
REQUIRED = "required"
# Settings of a base class without an effect on these choices.
IGNORED = {
    ("source", choice, "labels") for choice in ("mmad", "mvtec", "parts", "robustmad", "surfaces")
}
# A type that OmegaConf cannot express, and which the field therefore declares as Any.
TYPES = {
    "trainer.batch_size": "int or auto",
    "eval.batch_size": "int or auto",
    "source.labels": "mapping or list or null",
    "source.range": "auto, 12 or 16",
    "source.folders": "mapping or null",
    "source.columns": "mapping or null",
}


class SettingRow(NamedTuple):
    """A setting of the reference, all columns as text.

    `group` is "" for the settings of conf/config.yaml. `choice` is "" where all choices of a group
    share one dataclass. `default` is as yaml writes it, or "required". `example` is a valid value
    that an error message proposes.
    """

    group: str
    choice: str
    key: str
    type: str
    default: str
    range: str
    meaning: str
    example: str

    @property
    def name(self) -> str:
        """Return the full name on the command line, such as "trainer.epochs"."""
        return f"{self.group}.{self.key}" if self.group else self.key


def describe_settings() -> list[SettingRow]:
    """Return every setting of every config group and choice, in the order of its declaration."""
    register_plugins()
    rows = [row for row in _rows("", "", RunConfig) if row.key not in GROUPS]

    for group in GROUPS:
        for name, node in sorted(schemas(group).items()):
            # Several choices of this group are in a run, each under its own name.
            prefix = f"{name}." if group == "baseline" else ""
            rows.extend(_rows(group, "" if name == "base" else name, node, prefix=prefix))

    return [row for row in rows if (row.group, row.choice, row.key) not in IGNORED]


def find_settings(name: str) -> list[SettingRow]:
    """Return the setting with a full name such as "source.path", once for each choice with it."""
    return [row for row in describe_settings() if row.name == name]


def _rows(
    group: str, choice: str, node: type, *, prefix: str = "", values: Any = None
) -> Iterator[SettingRow]:
    """Yield the settings of a dataclass, nested dataclasses included.

    `values` is an instance whose values replace the defaults.
    """
    hints = get_type_hints(node)

    for item in fields(node):
        default = _default_of(item) if values is None else getattr(values, item.name)

        if is_dataclass(default):
            prefix_within = f"{prefix}{item.name}."
            yield from _rows(group, choice, type(default), prefix=prefix_within, values=default)
            continue

        about = item.metadata.get(DOCUMENTATION, Documentation(meaning=""))
        key = f"{prefix}{item.name}"
        yield SettingRow(
            group=group,
            choice=choice,
            key=key,
            type=TYPES.get(f"{group}.{key}", _type_text(hints[item.name])),
            default=about.default_text or _yaml_text(default),
            range=about.range,
            meaning=about.meaning,
            example=_yaml_text(default if about.cure is None else about.cure),
        )


def _default_of(item: Field[Any]) -> Any:
    if item.default is not NO_DEFAULT:
        return item.default
    if item.default_factory is not NO_DEFAULT:
        return item.default_factory()

    return MISSING


def _yaml_text(value: Any) -> str:
    """Return a default as yaml writes it."""
    if value == MISSING:
        return REQUIRED
    if value is None:
        return "null"
    if value == "":
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_yaml_text(item) for item in value)}]"
    if isinstance(value, dict):
        pairs = (f"{name}: {_yaml_text(item)}" for name, item in value.items())
        return f"{{{', '.join(pairs)}}}"

    return str(value)


def _type_text(hint: Any) -> str:
    """Return a type in the reader's words: "int or null", "auto, unsloth or transformers"."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        *others, last = (str(choice.value) for choice in hint)
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type_text(option) for option in get_args(hint))
    if get_origin(hint) is list:
        return f"list of {_type_text(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return "mapping"
    if hint is type(None):
        return "null"

    return "any" if hint is Any else str(hint.__name__)
