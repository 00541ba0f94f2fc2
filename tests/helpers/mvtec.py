"""Folders in the layout of MVTec AD."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import image

SIZE = (60, 60)


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image(seed, SIZE).save(path)


def save_mask(path: Path, rows: slice, columns: slice, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(size[::-1], np.uint8)
    values[rows, columns] = 255
    Image.fromarray(values).save(path)


def mvtec(root: Path, category: str = "bolt", seed: int = 0) -> Path:
    """Save a category: 16 good photos, 4 with a scratch at the upper left, 4 with a dent.

    The dents have no masks.
    """
    for i in range(12):
        save(root / category / "train/good" / f"{i:03d}.png", seed + i)
    for number, kind in enumerate(("good", "scratch_big", "dent"), start=1):
        for i in range(4):
            save(root / category / "test" / kind / f"{i:03d}.png", seed + 100 * number + i)
    for i in range(4):
        save_mask(
            root / category / "ground_truth/scratch_big" / f"{i:03d}_mask.png",
            slice(0, 9),
            slice(0, 9),
        )
    return root
