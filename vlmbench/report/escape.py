"""Make strings from users and models (labels, answers, file names, errors) harmless.

The targets are Markdown and a terminal; Jinja escapes HTML itself.
"""

from __future__ import annotations

import re

from vlmbench.system.text import replace_control_characters

_BACKTICKS = re.compile(r"`+")

# Characters that can start markup. An underscore within a word never does.
_MARKDOWN = re.compile(r"[\\`*\[\]|#~$!]|(?<![^\W_])_|_(?![^\W_])")


def one_line(text: str) -> str:
    """Return the text on one line, with U+FFFD for control and direction characters."""
    return replace_control_characters(" ".join(text.split()))


def markdown(text: str) -> str:
    """Return text that CommonMark and GitHub's tables show unchanged."""
    escaped = _MARKDOWN.sub(lambda match: f"\\{match[0]}", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_code(text: str) -> str:
    """Return a code span. Do not use it in tables: a `|` ends a column even in code."""
    line = one_line(text)
    longest = max((len(ticks) for ticks in _BACKTICKS.findall(line)), default=0)

    fence = "`" * (1 + longest)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"
