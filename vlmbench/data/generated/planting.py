"""Plant a defect in a copy of a good image, so that a model can learn without photos of defects.

Cut and paste takes the idea of CutPaste (Li et al. 2021, arXiv:2104.04015). The texture of Perlin
noise takes that of DRAEM (Zavrtanik et al. 2021, arXiv:2108.07610). No code is theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmbench.data.generated.blemishes import KINDS, Floats

Pixels = NDArray[np.uint8]  # (height, width, 3)


class PlantedKind(StrEnum):
    """The kinds of planted defects."""

    scratch = "scratch"
    hole = "hole"
    stain = "stain"
    blotch = "blotch"
    patch = "patch"  # a rectangle of another good image
    texture = "texture"  # a texture of noise in an uneven outline


# The extent of a defect in the square that it is drawn in, as a share of the square's edge.
EXTENTS: Mapping[PlantedKind, float] = {
    PlantedKind.scratch: 0.5,
    PlantedKind.hole: 0.18,
    PlantedKind.stain: 0.4,
    PlantedKind.blotch: 0.45,
    PlantedKind.patch: 0.8,
    PlantedKind.texture: 0.6,
}
ATTEMPTS = 8  # locations that are tried
MIN_EDGE = 8  # pixels of the square, and of an image that gets a defect
MAX_DRAWN = 512  # pixels of the square in which a defect is drawn: 2000 take a minute
VISIBLE = 24  # grey levels that the strongest change has at least
MARKED = 0.25  # share of the strongest change from which a pixel belongs to the defect
THUMBNAIL = 64  # pixels: where the part is, is found on so small an image
MIN_CONTRAST = 40  # grey levels between a part and its background, below which there is none


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PlantedImage:
    """An image with a planted defect, and the pixels of the defect (height, width)."""

    image: Image.Image
    marked: NDArray[np.bool_]


def plant_defect(
    image: Image.Image,
    kind: PlantedKind,
    *,
    extent: float,
    donor: Image.Image,
    rng: np.random.Generator,
) -> PlantedImage | None:
    """Return the RGB image with one defect; None for an image that does not show it well enough.

    `extent` is the defect's length as a share of the image's shorter edge, about. A patch is cut
    from the RGB image `donor`. All pixels beyond the defect's square stay as they are.
    """
    pixels = np.asarray(image)
    shorter = min(image.size)
    if shorter < MIN_EDGE:
        return None

    edge = min(shorter, max(MIN_EDGE, round(extent * shorter / EXTENTS[kind])))
    targets = _part_pixels(image)

    for _ in range(ATTEMPTS):
        top, left = _locate_square(pixels, edge, targets, rng)
        area = np.s_[top : top + edge, left : left + edge]
        changed = _draw(kind, pixels[area], donor, rng)
        change = np.abs(changed.astype(np.int16) - pixels[area]).max(axis=2)

        if change.max() >= VISIBLE:
            planted = pixels.copy()
            planted[area] = changed
            marked = np.zeros(pixels.shape[:2], np.bool_)
            marked[area] = change >= MARKED * change.max()
            return PlantedImage(image=Image.fromarray(planted), marked=marked)

    return None


def _part_pixels(image: Image.Image) -> Floats:
    """Return where the part is: points (n, 2), row and column as shares of height and width.

    The part is what differs from the commonest colour of the border. If nothing does, or nearly
    everything, each point counts.
    """
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    contrast = np.abs(pixels - np.median(border, axis=0)).max(axis=2)

    is_part = contrast > contrast.max() / 2
    if contrast.max() < MIN_CONTRAST or not 0.05 <= is_part.mean() <= 0.95:
        is_part[:] = True
    return (np.argwhere(is_part) + 0.5) / THUMBNAIL


def _locate_square(
    pixels: Pixels, edge: int, targets: Floats, rng: np.random.Generator
) -> tuple[int, int]:
    """Return top and left of a square around a random target, moved into the image."""
    size = np.array(pixels.shape[:2])
    centre = targets[rng.integers(len(targets))] * size
    corner = np.clip(centre - edge / 2, 0, size - edge).astype(int)
    return int(corner[0]), int(corner[1])


def _draw(
    kind: PlantedKind, square: Pixels, donor: Image.Image, rng: np.random.Generator
) -> Pixels:
    """Return the square with a defect of random strength. A grey square stays grey."""
    levels = square.astype(np.float64)
    if kind is PlantedKind.patch:
        changed = _paste(levels, np.asarray(donor), rng)
    else:
        small = _resize(levels, min(len(levels), MAX_DRAWN))
        change = _blemish(kind, small, rng) - small
        changed = levels + _resize(change, len(levels))

    if (square == square[..., :1]).all():
        changed[:] = changed.mean(axis=2, keepdims=True)
    return np.clip(changed.round(), 0, 255).astype(np.uint8)


def _blemish(kind: PlantedKind, square: Floats, rng: np.random.Generator) -> Floats:
    if kind is PlantedKind.texture:
        return _lay_texture(square, rng)

    seed = int(rng.integers(2**32))  # the same shape in each channel
    channels = [KINDS[kind](square[..., i], np.random.default_rng(seed)) for i in range(3)]
    return square + rng.uniform(0.5, 1) * (np.stack(channels, axis=2) - square)


def _resize(square: Floats, edge: int) -> Floats:
    """Return (edge, edge, 3) values; the square itself if it has this edge."""
    if len(square) == edge:
        return square

    channels = [Image.fromarray(square[..., i].astype(np.float32)) for i in range(3)]
    resized = [np.asarray(each.resize((edge, edge))) for each in channels]
    return np.stack(resized, axis=2).astype(np.float64)


def _paste(square: Floats, donor: Pixels, rng: np.random.Generator) -> Floats:
    """Paste a rectangle of the donor, brighter or darker by at most a fifth, perhaps mirrored."""
    limits = np.minimum(square.shape[:2], donor.shape[:2])
    size = np.maximum(1, (limits * rng.uniform(0.3, 0.8, 2)).astype(int))
    piece = donor[_random_area(donor.shape[:2], size, rng)].astype(np.float64)
    if rng.random() < 0.5:
        piece = piece[:, ::-1]

    changed = square.copy()
    changed[_random_area(square.shape[:2], size, rng)] = piece * rng.uniform(0.8, 1.2)
    return changed


def _random_area(
    shape: tuple[int, ...], size: NDArray[np.int_], rng: np.random.Generator
) -> tuple[slice, slice]:
    """Return the rows and columns of a rectangle of `size` somewhere in `shape`."""
    top, left = rng.integers(0, np.array(shape) - size + 1).tolist()
    height, width = size.tolist()
    return slice(top, top + height), slice(left, left + width)


def _lay_texture(square: Floats, rng: np.random.Generator) -> Floats:
    """Lay a texture of noise over the square, within an outline that is noise too."""
    edge = len(square)
    steps = (np.arange(edge) + 0.5) / edge - 0.5
    right, down = np.meshgrid(steps, steps)
    inside = 1.2 * (0.3 - np.hypot(right, down)) + 0.6 * _perlin_noise(edge, 4, rng)
    alpha = rng.uniform(0.6, 1) / (1 + np.exp(-inside / 0.03))

    tone = square.mean(axis=(0, 1)) + rng.normal(0, 45, 3)
    texture = tone + 90 * _perlin_noise(edge, int(rng.integers(5, 13)), rng)[..., None]
    changed: Floats = square + alpha[..., None] * (texture - square)
    return changed


def _perlin_noise(edge: int, waves: int, rng: np.random.Generator) -> Floats:
    """Return gradient noise (Perlin 1985) with `waves` squares along an edge: (edge, edge)."""
    angles = rng.uniform(0, 2 * math.pi, (waves + 1, waves + 1))
    positions = (np.arange(edge) + 0.5) * waves / edge
    first = positions.astype(int)
    offset = positions - first
    fade = offset**3 * (offset * (6 * offset - 15) + 10)

    noise = np.zeros((edge, edge))
    for down in (0, 1):
        for right in (0, 1):
            angle = angles[np.ix_(first + down, first + right)]
            slope = np.cos(angle) * (offset - right) + np.sin(angle) * (offset - down)[:, None]
            weights = np.abs(1 - down - fade)[:, None] * np.abs(1 - right - fade)
            noise += weights * slope

    return noise
