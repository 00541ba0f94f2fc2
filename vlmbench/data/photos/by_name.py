"""Pair photos by their names: each tested photo with the reference that was taken for it.

Example: 00041000_test.jpg is compared with 00041000_temp.jpg of the same folder.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from vlmbench.system.text import typed_setting
from vlmbench.types import UserError

KEY = "*"
NameMatch = re.Pattern[str]


def compile_name(pattern: str, name: str) -> NameMatch:
    """Return the expression for a pattern such as "*_temp" or "temp/*".

    `name` is the setting's. Raise UserError unless the pattern has exactly one `*`.
    """
    if pattern.count(KEY) != 1:
        cure = typed_setting(name, "*_temp")
        raise UserError(f"{name} must have one *, got {pattern!r}; set {cure}")

    before, after = (re.escape(text) for text in pattern.split(KEY))
    folder = r"(?P<folder>(?:.*/)?)"
    below = r"(?:.*/)?" if before.endswith("/") else ""  # temp/* has the photos of subfolders too
    return re.compile(rf"{folder}{before}{below}(?P<key>[^/]+){after}")


def key_of(name: str, pattern: NameMatch) -> str | None:
    """Return the key of the photo `name`, which both photos of a pair share; None without one."""
    path = PurePosixPath(name)
    match = pattern.fullmatch(path.with_suffix("").as_posix())
    return f"{match['folder']}{match['key']}" if match else None
