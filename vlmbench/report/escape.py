"""Make strings from users and models (labels, answers, file names, errors) harmless.

The targets are Markdown and a terminal; Jinja escapes HTML itself.
"""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

from vlmbench.system.text import REPLACEMENT, replace_control_characters

# GitHub makes a link of such a text, unless an entity stands in it.
_ADDRESS = re.compile(r"(?i)\b(https?|ftp|xmpp|mailto):")
# Control characters besides tabs and line ends, line separators, and characters of direction.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)
_BACKTICKS = re.compile(r"`+")

# Characters that can start markup. An underscore within a word never does.
_MARKDOWN = re.compile(r"[\\`*\[\]|#~$!]|(?<![^\W_])_|_(?![^\W_])")


def one_line(text: str) -> str:
    """Return the text on one line, with U+FFFD for control and direction characters."""
    return replace_control_characters(" ".join(text.split()))


def markdown(text: str) -> str:
    """Return text that CommonMark and GitHub's tables show unchanged."""
    escaped = _MARKDOWN.sub(lambda match: f"\\{match[0]}", one_line(text))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _ADDRESS.sub(r"\1&#58;", escaped).replace("www.", "www&#46;")


def without_controls(value: Any) -> Any:
    """Return a text without characters that reorder or break what is around them on a page."""
    if isinstance(value, str) and not isinstance(value, Markup) and not value.isprintable():
        return _CONTROLS.sub(REPLACEMENT, value)
    return value


def markdown_code(text: str) -> str:
    """Return a code span. Do not use it in tables: a `|` ends a column even in code."""
    line = one_line(text)
    longest = max((len(ticks) for ticks in _BACKTICKS.findall(line)), default=0)

    fence = "`" * (1 + longest)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"
