"""Small changes of an image that leave the part as it is: would an inspector's answer change?"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageFilter

BLUR = 1 / 160  # of the shorter edge: the radius, at least MIN_BLUR
MIN_BLUR = 0.7  # pixels
DARK = 0.8  # times as bright
SHIFT = 1 / 50  # of the shorter edge, to the right and down
QUALITY = 50  # of JPEG
DEGREES = 1.0


def blur(image: Image.Image) -> Image.Image:
    """Return the image out of focus."""
    return image.filter(ImageFilter.GaussianBlur(max(MIN_BLUR, BLUR * min(image.size))))


def darken(image: Image.Image) -> Image.Image:
    """Return the image with less light."""
    return image.point(lambda level: level * DARK)


def shift(image: Image.Image) -> Image.Image:
    """Return the image moved to the right and down; the edge is repeated."""
    pixels = max(1, round(SHIFT * min(image.size)))
    padded = np.pad(np.asarray(image), ((pixels, 0), (pixels, 0), (0, 0)), mode="edge")
    return Image.fromarray(padded[: image.height, : image.width])


def save_as_jpeg(image: Image.Image) -> Image.Image:
    """Return the image after it was saved as a small JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return Image.open(buffer).convert("RGB")


def rotate(image: Image.Image) -> Image.Image:
    """Return the image rotated by a degree; the edge is repeated."""
    margin = max(2, round(0.02 * max(image.size)))  # a rotation by 1 degree needs 0.9 %
    padded = np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    turned = Image.fromarray(padded).rotate(DEGREES, Image.Resampling.BICUBIC)

    return turned.crop((margin, margin, margin + image.width, margin + image.height))


# The changes by name: deterministic functions from RGB to RGB that keep the size.
CHANGES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "blurred": blur,
    "darkened": darken,
    "shifted": shift,
    "jpeg": save_as_jpeg,
    "rotated": rotate,
}
