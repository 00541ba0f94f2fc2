"""Which settings hold text, as their dataclasses declare it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from vlmbench.config.reference import GROUPS, TYPES, describe_settings
from vlmbench.config.registry import register_plugins, schemas


class Kind(StrEnum):
    """How the value of a setting is read on the command line."""

    text = "text"  # as it stands
    texts = "texts"  # a list of texts in brackets
    mapping = "mapping"  # texts to texts in braces
    quoted_mapping = "quoted mapping"  # the same, and its dataclass reads yaml in a text too
    value = "value"  # with Hydra's grammar: numbers, true and false, names of choices


@dataclass(frozen=True, slots=True)
class TextSetting:
    """The kind of a setting. `is_optional`: null is no text."""

    kind: Kind
    is_optional: bool = False


KINDS = {
    "str": Kind.text,
    "list of str": Kind.texts,
    "mapping": Kind.mapping,
    "mapping or list": Kind.quoted_mapping,
}


def text_settings() -> Mapping[str, TextSetting]:
    """Return the settings that hold text, by their full names, of all choices of all groups.

    A name that holds text in one choice and a number in another is left out.
    """
    register_plugins()
    return _text_settings(tuple(node for group in GROUPS for node in schemas(group).values()))


@lru_cache(maxsize=4)
def _text_settings(nodes: tuple[type, ...]) -> Mapping[str, TextSetting]:
    """Return `text_settings` of these dataclasses: reading them takes 20 ms."""
    found: dict[str, TextSetting] = {}
    for row in describe_settings():
        is_optional = row.type.endswith(" or null")
        kind = KINDS.get(row.type.removesuffix(" or null"), Kind.value)
        if kind is Kind.mapping and row.name in TYPES:  # declared as Any, so a text passes too
            kind = Kind.quoted_mapping
        earlier = found.get(row.name, TextSetting(kind, is_optional))

        if earlier.kind is not kind:
            kind = Kind.value
        found[row.name] = TextSetting(kind, is_optional or earlier.is_optional)
    return {name: one for name, one in found.items() if one.kind is not Kind.value}


def find_text_setting(name: str, settings: Mapping[str, TextSetting]) -> TextSetting:
    """Return what a full name means. A name below a mapping, prompt.labels.normal, is a text."""
    if name in settings:
        return settings[name]

    parent = settings.get(name.rpartition(".")[0])
    is_within = parent is not None and parent.kind in (Kind.mapping, Kind.quoted_mapping)
    return TextSetting(Kind.text if is_within else Kind.value)
