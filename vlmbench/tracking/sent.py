"""The values that may go to W&B, and what its own log says about the way there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_FAILURE = 200  # characters of an error of W&B


def failures(own_log: Path) -> list[str]:
    """Return the errors in W&B's own log, except those of its statistics of its own use."""
    text = own_log.read_text(encoding="utf-8", errors="replace") if own_log.exists() else ""
    found = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        message = str(row.get("msg", ""))
        if str(row.get("level", "")).startswith("ERROR") and "analytics" not in message:
            found.append(" ".join(message.split())[:MAX_FAILURE])
    return found


def without_home(value: Any) -> Any:
    """Return a value with `~` for the path of the user's home, which names the user."""
    if isinstance(value, Mapping):
        return {key: without_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(item) for item in value]

    try:
        home = str(Path.home())
    except RuntimeError:  # this user has none
        return value
    if not isinstance(value, str) or not Path(home).name:
        return value
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", value)
