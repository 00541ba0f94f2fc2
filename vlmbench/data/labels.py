"""The cure for a label in the user's own words: a setting that maps it."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Words that can be typed between the single quotes of a shell.
TYPED_KEYS = re.compile(r"[\w :,/.+-]+")
# Words that people use for a good part.
GOOD_WORDS = frozenset(
    {"good", "ok", "pass", "passed", "fine", "0", "良", "良品", "正常", "合格", "異常なし"}
)


def mapping_cure(word: str, label: str, labels: Mapping[str, str]) -> str | None:
    """Return "map it, as in 'source.labels={...}'" with `word` mapped to `label`.

    None if a word has characters that a shell or the command line would read in another way.
    """
    if label == "abnormal" and word.casefold() in GOOD_WORDS:
        label = "normal"

    mapping = ", ".join(f"{key}: {value}" for key, value in {**labels, word: label}.items())
    if TYPED_KEYS.fullmatch(mapping):
        return f"map it, as in 'source.labels={{{mapping}}}'"
    return None
