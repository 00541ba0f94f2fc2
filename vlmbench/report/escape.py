"""Strings that others wrote (labels, answers, file names, errors), made harmless for Markdown and for a terminal."""

from __future__ import annotations

import re

from vlmbench.plain import visible

_BACKTICKS = re.compile(r"`+")
# A character that would start markup; an underscore within a word is an underscore everywhere.
_MARKDOWN = re.compile(r"[\\`*\[\]|#~$!]|(?<![^\W_])_|_(?![^\W_])")


def one_line(text: str) -> str:
    """Whitespace runs become one space; control and direction characters become U+FFFD, so that none takes effect."""
    return visible(" ".join(text.split()))


def markdown(text: str) -> str:
    """Text that shows as itself in CommonMark and GitHub's tables."""
    escaped = _MARKDOWN.sub(lambda match: f"\\{match[0]}", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_code(text: str) -> str:
    """A code span; not for tables, whose columns a `|` ends even in code."""
    line = one_line(text)
    fence = "`" * (1 + max((len(run) for run in _BACKTICKS.findall(line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"
