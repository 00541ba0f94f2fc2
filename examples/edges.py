"""Show the edges of an image.

A view is one Python file and one yaml file. Example 05 puts this one into `data/views/` of a folder
of plug-ins, and edges.yaml into `conf/view/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmbench.config import ViewConfig, schema

if TYPE_CHECKING:
    from PIL.Image import Image


@schema("view", "edges")
@dataclass(kw_only=True)
class EdgesConfig(ViewConfig):
    """Settings of conf/view/edges.yaml."""

    name: str = "edges"

    def build(self, references: Sequence[Path]) -> Callable[[Image], Image]:
        """Return the filter. `references` are the reference images of the training set."""
        from PIL import ImageFilter

        return lambda image: image.convert("RGB").filter(ImageFilter.FIND_EDGES)

    def fingerprint(self, references: Sequence[str]) -> str:
        """Return the name of the filter: the result depends on nothing else."""
        return "find_edges"
