"""No processing: for runs that show pictures only as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmbench.config import ViewConfig, schema

if TYPE_CHECKING:
    from PIL.Image import Image


@schema("view", "raw")
@dataclass(kw_only=True)
class RawConfig(ViewConfig):
    """conf/view/raw.yaml."""

    name: str = "raw"

    def build(self, references: Sequence[Path]) -> Callable[[Image], Image]:
        """The identity."""
        return lambda image: image

    def fingerprint(self, references: Sequence[str]) -> str:
        """The same for any references."""
        return "identity"
