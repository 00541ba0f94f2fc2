"""Measure the sentences of Markdown text: how many words each has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

FENCE = re.compile(r"^(`{3,}).*?^\1$", re.MULTILINE | re.DOTALL)
TABLE_OR_HEADING = re.compile(r"^\s*(\||#|>{0,1}\s*$).*$", re.MULTILINE)
CODE = re.compile(r"`[^`]+`")
IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
FIGURE = re.compile(r"\{\{[^}]*\}\}")
ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+", re.MULTILINE)
SENTENCE_END = re.compile(r"(?<=[.!?])[\"*)]*\s+(?=[A-Z0-9*(\"]|vlmbench)")
RIDDLE = re.compile(r"^(Of|What|Where|One|Those)\b")  # no sentence begins with these
MIN_WORDS = 3  # fewer are a label, not a sentence


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """The sentences of some texts, with their number of words."""

    texts: tuple[str, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Return the mean number of words."""
        return sum(self.lengths) / len(self.lengths)

    @property
    def p90(self) -> int:
        """Return the number of words that 90 % of the sentences do not exceed."""
        return sorted(self.lengths)[int(0.9 * len(self.lengths))]

    @property
    def longest(self) -> list[tuple[int, str]]:
        """Return the ten longest sentences."""
        return sorted(zip(self.lengths, self.texts, strict=True), reverse=True)[:10]


def sentences_of(pages: Iterable[str]) -> Sentences:
    """Return the sentences of Markdown pages.

    Code blocks, tables, headings and images are left out. A piece of code and a generated figure
    count as one word, and so does every word of a link's text.
    """
    found = [sentence for page in pages for sentence in _sentences(page)]
    counted = [(text, len(re.findall(r"\S*\w\S*", text))) for text in found]
    kept = [(text, words) for text, words in counted if words >= MIN_WORDS]
    return Sentences(
        texts=tuple(text for text, _ in kept), lengths=tuple(words for _, words in kept)
    )


def _sentences(page: str) -> Iterable[str]:
    text = FENCE.sub("\n\n", page)
    text = TABLE_OR_HEADING.sub("\n", text)
    text = ITEM.sub("\n\n", text)
    for pattern, replacement in ((IMAGE, ""), (LINK, r"\1"), (CODE, "Code"), (FIGURE, "Figure")):
        text = pattern.sub(replacement, text)

    for paragraph in re.split(r"\n\s*\n", text):
        yield from SENTENCE_END.split(" ".join(paragraph.split()))
