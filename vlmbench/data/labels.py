"""The cure for a label in the user's own words: a setting that maps it."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Words that can be typed as keys on the command line. Hydra's keys are ASCII, without quotes.
TYPED_KEYS = re.compile(r"[\w :,/.+-]+", re.ASCII)


def mapping_cure(word: str, label: str, labels: Mapping[str, str]) -> str | None:
    """Return "map it, as in 'source.labels={...}'" with `word` mapped to `label`.

    None if a word cannot be typed as a key, such as a Japanese one.
    """
    mapping = ", ".join(f"{key}: {value}" for key, value in {**labels, word: label}.items())
    if not TYPED_KEYS.fullmatch(mapping):
        return None

    return f"map it, as in 'source.labels={{{mapping}}}'"
