"""Text on its way to a terminal or a log file, and settings as a user types them."""

from __future__ import annotations

import logging
import re
import shlex
import unicodedata
from typing import Any

# Every shell reads such a value as it stands.
PLAIN_VALUE = re.compile(r"[\w./:+-]+")
BRACKETED = re.compile(r"\[.*\]|\{.*\}", re.DOTALL)
BEFORE_QUOTE = re.compile(r'(\\+)(?="|\Z)')
REPLACEMENT = "\ufffd"
KEPT = "\n\t"  # control characters that may pass


def replace_control_characters(text: str) -> str:
    """Return the text with U+FFFD in place of control and direction characters.

    A terminal would obey these characters. Line feeds, tabs and all spaces stay.
    """
    return "".join(character if _is_harmless(character) else REPLACEMENT for character in text)


def _is_harmless(character: str) -> bool:
    # "Zs" has the wide space of Japanese names, which is not printable to Python.
    is_space = unicodedata.category(character) == "Zs"
    return character.isprintable() or is_space or character in KEPT


def counted(number: int, noun: str) -> str:
    """Return the number with its noun, such as "1 part" or "1,200 parts"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def typed_setting(name: str, value: Any) -> str:
    """Return "name=value" as it can be typed, also in a sweep: in quotes where the shell or the
    command line needs them."""
    text = str(value)
    is_sweep = "," in text and not BRACKETED.fullmatch(text)
    if is_sweep or text.startswith(("'", '"')) or text != text.strip():
        return shlex.quote(f"{name}={in_quotes(text)}")

    return f"{name}={text}" if PLAIN_VALUE.fullmatch(text) else shlex.quote(f"{name}={text}")


def in_quotes(text: str) -> str:
    """Return the text in double quotes, with the escapes of Hydra's grammar."""
    doubled = BEFORE_QUOTE.sub(r"\1\1", text)  # a backslash escapes only before a quote
    escaped = doubled.replace('"', '\\"')
    return f'"{escaped}"'


class PlainFormatter(logging.Formatter):
    """Format log records without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return replace_control_characters(super().format(record))
