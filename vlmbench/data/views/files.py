"""A view of images that are already processed on disk: `view=files view.name=mine`.

The user chooses the view's name. The manifest names the processed file and this view. vlmbench
shows the file as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from vlmbench.config import ViewConfig, schema, setting

if TYPE_CHECKING:
    from PIL.Image import Image


@schema("view", "files")
@dataclass(kw_only=True)
class FilesConfig(ViewConfig):
    """Settings of conf/view/files.yaml."""

    name: str = setting(MISSING, "Name of the view in your manifest.", cure="rt")

    def build(self, references: Sequence[Path]) -> Callable[[Image], Image]:
        """Return a function that returns the image unchanged."""
        return lambda image: image

    def fingerprint(self, references: Sequence[str]) -> str:
        """Return the same text for all references."""
        return "identity"
