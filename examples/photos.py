"""Draw small photos of a metal plate, for the examples that need photos and get none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128  # edge of a photo in pixels
HOLES = ((36, 36), (92, 36), (36, 92), (92, 92))


def draw_plate(number: int, *, is_good: bool) -> Image.Image:
    """Return a photo of plate `number`; a bad plate lacks a hole and has a scratch."""
    rng = np.random.default_rng(number)
    clouds = Image.fromarray(rng.integers(110, 190, (6, 6), dtype=np.uint8))
    photo = clouds.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB")
    draw = ImageDraw.Draw(photo)

    holes = list(HOLES)
    if not is_good:
        holes.pop(int(rng.integers(len(holes))))
        ends = rng.integers(10, SIZE - 10, size=4).tolist()
        draw.line(ends, fill="white", width=4)

    for x, y in holes:
        draw.ellipse((x - 12, y - 12, x + 12, y + 12), fill="black")
    return photo


def make_photos(folder: Path, *, good: int = 40, bad: int = 24) -> Path:
    """Write photos into good/ and bad/ in `folder`, and return it."""
    for number in range(good + bad):
        is_good = number < good
        path = folder / ("good" if is_good else "bad") / f"plate{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_plate(number, is_good=is_good).save(path)
    return folder
