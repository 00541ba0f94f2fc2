"""Let autodoc show this project's docstrings, which are plain text with Markdown's backticks."""

from __future__ import annotations

import re
from typing import Any

CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SPECIAL = re.compile(r"([*|\\]|_(?=\W|$)|(?<!`)`(?!`))")


def setup(app: Any) -> dict[str, bool]:
    """Register the conversion with Sphinx."""
    app.connect("autodoc-process-docstring", _convert)
    return {"parallel_read_safe": True}


def _convert(
    app: Any, kind: str, name: str, documented: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = to_rst("\n".join(lines)).split("\n")


def to_rst(text: str) -> str:
    """Return the reStructuredText that shows a docstring as it is written.

    Code in backticks stays code, an indented block becomes a literal block, and list items
    become lists. Every other character that reStructuredText would interpret is escaped.
    """
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(_block(block) for block in blocks if block.strip())


def _block(block: str) -> str:
    lines = block.split("\n")
    first_indented = next((i for i, line in enumerate(lines) if line.startswith("    ")), None)

    if first_indented is not None:
        head = [_inline(" ".join(lines[:first_indented]))] if first_indented else []
        return "\n\n".join(
            [*head, "::", "\n".join("    " + line for line in lines[first_indented:])]
        )
    if all(re.match(r"[-*] |  ", line) for line in lines):
        return "\n".join(line[:2] + _inline(line[2:]) for line in lines)

    return _inline("\n".join(line.strip() for line in lines))


def _inline(text: str) -> str:
    parts = CODE.split(text)
    return "".join(
        f"``{part}``" if index % 2 else SPECIAL.sub(r"\\\1", part)
        for index, part in enumerate(parts)
    )
