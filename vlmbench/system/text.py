"""Text on its way to a terminal or a log file, and settings as a user types them."""

from __future__ import annotations

import logging
import re
import shlex
from typing import Any

# Hydra and every shell read such a value as it stands.
PLAIN_VALUE = re.compile(r"[\w./:+-]+", re.ASCII)
REPLACEMENT = "\ufffd"
KEPT = "\n\t"  # control characters that may pass


def replace_control_characters(text: str) -> str:
    """Return the text with U+FFFD in place of control and direction characters.

    A terminal would obey these characters. Line feeds and tabs stay.
    """
    return "".join(
        character if character.isprintable() or character in KEPT else REPLACEMENT
        for character in text
    )


def typed_setting(name: str, value: Any) -> str:
    """Return "name=value" as it can be typed: with quotes where Hydra or the shell needs them."""
    text = str(value)
    if PLAIN_VALUE.fullmatch(text):
        return f"{name}={text}"

    escaped = text.replace('"', '\\"')
    return shlex.quote(f'{name}="{escaped}"')


class PlainFormatter(logging.Formatter):
    """Format log records without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return replace_control_characters(super().format(record))
