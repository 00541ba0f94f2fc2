"""How many lots a set of photos allows, kept beside the manifest so that later stages can tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from vlmbench.data.prepared import MANIFEST
from vlmbench.system.reading import UnreadableError, read_regular

FILE = "lots.json"
MAX_BYTES = 10_000_000
MAX_LOTS = 60  # of one category: with the default shares 6 validate and 12 test
MIN_LOTS = 3  # one for each split
QUERIES = 2  # good queries that a lot should have beside its references

Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class Stock(msgspec.Struct, frozen=True, kw_only=True):
    """The photos of one category and split. Photos that stay together count as one part."""

    good: Count
    bad: Count
    good_parts: Count
    bad_parts: Count
    fewest: Count  # lots that are made in any case

    def count_lots(self, *, references: int, parts: int) -> int:
        """Return how many lots of this many references and parts can be made."""
        by_photos = self.good // (references + QUERIES)
        by_parts = self.good_parts // parts
        by_defects = self.bad_parts or MAX_LOTS
        return max(self.fewest, min(by_photos, by_parts, by_defects, MAX_LOTS))


def write_stocks(folder: Path, stocks: Sequence[Stock]) -> None:
    """Write the stocks beside a manifest."""
    rows = [msgspec.to_builtins(stock) for stock in stocks]
    (folder / FILE).write_text(json.dumps(rows) + "\n", encoding="utf-8")


def read_stocks(manifest: Path) -> list[Stock]:
    """Return the stocks beside a manifest that vlmbench prepared; [] if there are none.

    A damaged file counts as none: only a message depends on it.
    """
    if manifest.name != MANIFEST:
        return []

    try:
        content = read_regular(manifest.with_name(FILE), limit=MAX_BYTES)
        return msgspec.json.decode(content, type=list[Stock])
    except (UnreadableError, msgspec.DecodeError, UnicodeDecodeError):
        return []
