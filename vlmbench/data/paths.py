"""Cures for settings whose path leads nowhere."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from vlmbench.system.text import typed_setting


def path_cure(setting: str, path: Path, *, is_folder: bool = True, otherwise: str) -> str:
    """Return the cure for a setting whose path does not exist, or is no folder (file).

    It is "set <setting>=<path>" with the existing path whose name is closest, or `otherwise` if no
    name is close.
    """
    siblings: list[Path] = []
    with suppress(OSError):
        siblings = sorted(path.parent.iterdir())

    names = [sibling.name for sibling in siblings if sibling.is_dir() is is_folder]
    closest = get_close_matches(path.name, [name for name in names if name != path.name], n=1)
    if not closest:
        return otherwise

    return f"set {typed_setting(setting, path.with_name(closest[0]))}"
