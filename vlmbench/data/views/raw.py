"""The raw view: for runs that show images only as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmbench.config import ViewConfig, schema, setting

if TYPE_CHECKING:
    from PIL.Image import Image


@schema("view", "raw")
@dataclass(kw_only=True)
class RawConfig(ViewConfig):
    """Settings of conf/view/raw.yaml."""

    name: str = setting("raw", "Name of the processed view; raw: none.")

    def build(self, references: Sequence[Path]) -> Callable[[Image], Image]:
        """Return a function that returns the image unchanged."""
        return lambda image: image

    def fingerprint(self, references: Sequence[str]) -> str:
        """Return the same text for all references."""
        return "identity"
