"""Labels that are numbers from 0.0 to 1.0: how likely a photo shows a defect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vlmbench.data.photos.photo import BAD, GOOD
from vlmbench.types import UserError

# A number with a decimal point: 0 and 1 may mean either label, and need source.labels.
LIKELY = re.compile(r"(?:0?\.\d+|0\.|1\.0*)(?:e-?\d{1,2})?", re.IGNORECASE)
UNSURE = "unsure"


def likely_label(word: str, unsure: Sequence[float], labels: Mapping[str, str]) -> str | None:
    """Return the label of a number from 0.0 to 1.0, or UNSURE if it is between `unsure`.

    Return None for any other word, and for a word that `labels` maps.
    """
    if word in labels or not LIKELY.fullmatch(word):
        return None

    likely = float(word)
    low, high = unsure
    if likely <= low:
        return GOOD
    return BAD if likely >= high else UNSURE


def check_unsure(unsure: Sequence[float]) -> None:
    """Raise UserError unless `source.unsure` is two numbers from 0 to 1, the smaller first."""
    if len(unsure) != 2 or not 0 <= unsure[0] <= unsure[1] <= 1:
        raise UserError(
            f"source.unsure must be two numbers from 0 to 1, the smaller first, got "
            f"{list(unsure)}; set 'source.unsure=[0.25,0.75]'"
        )
