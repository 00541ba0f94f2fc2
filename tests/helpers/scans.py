"""Scans of strips, each unlike the others; a bad one has one small defect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vlmbench.types import Box

SMALL = (96, 400)  # (width, height) of scans that train quickly
DEFECT = 8  # pixels: the edge of the defect


def scan(path: Path, seed: int, size: tuple[int, int], defect: Box | None = None) -> Path:
    """Save a scan with a smooth random texture, and a white defect."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 200, (40, 10, 3), dtype=np.uint8))
    image = coarse.resize(size, Image.Resampling.BICUBIC)
    if defect is not None:
        x, y, width, height = defect
        image.paste("white", (x, y, x + width, y + height))
    image.save(path, compress_level=1)
    return path


def mask_of(path: Path, size: tuple[int, int], defects: Sequence[Box]) -> Path:
    """Save a black mask with white defects."""
    values = np.zeros(size[::-1], np.uint8)
    for x, y, width, height in defects:
        values[y : y + height, x : x + width] = 255
    Image.fromarray(values).save(path)
    return path


def defect_of(seed: int, size: tuple[int, int]) -> Box:
    """Return the place of a scan's defect."""
    x, y = np.random.default_rng(1000 + seed).integers(0, np.array(size) - DEFECT).tolist()
    return x, y, DEFECT, DEFECT


def scans(
    root: Path, *, good: int = 24, bad: int = 16, size: tuple[int, int] = SMALL, masks: bool = True
) -> Path:
    """Save good/ and bad/, with a mask beside each bad scan."""
    for seed in range(good):
        scan(root / "good" / f"g{seed}.png", seed, size)
    for seed in range(bad):
        defect = defect_of(seed, size)
        scan(root / "bad" / f"b{seed}.png", 100 + seed, size, defect)
        if masks:
            mask_of(root / "bad" / f"b{seed}_mask.png", size, [defect])
    return root
