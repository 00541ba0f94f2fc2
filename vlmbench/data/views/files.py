"""Pictures that are already processed on disk, under a name of the user's: `view=files view.name=mine`.

The manifest names the processed picture's file and that view; nothing more is done to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from vlmbench.config import ViewConfig, schema

if TYPE_CHECKING:
    from PIL.Image import Image


@schema("view", "files")
@dataclass(kw_only=True)
class FilesConfig(ViewConfig):
    """conf/view/files.yaml."""

    name: str = MISSING

    def build(self, references: Sequence[Path]) -> Callable[[Image], Image]:
        """The identity."""
        return lambda image: image

    def fingerprint(self, references: Sequence[str]) -> str:
        """The same for any references."""
        return "identity"
