"""Convert images of any mode to 8-bit RGB, in little memory."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vlmbench.types import UserError

BAND = 1_000_000  # pixels that are converted at once


class Conversion(StrEnum):
    """A change to a file's image. Models see 8-bit RGB, upright."""

    UPRIGHT = "turned upright by its EXIF orientation"
    DEPTH = "16-bit grey scaled to 8 bits (divided by 257)"
    CHANNEL_DEPTH = "16 bits a channel cut to the upper 8"
    FLOAT = "floats from 0 to 1 scaled to 8 bits"
    INK = "CMYK to RGB by Pillow's formula, without colour profile"
    WHITE = "transparency laid over white"
    COLOURS = "grey, 1-bit, palette or YCbCr to RGB"
    FIRST_FRAME = "the first of several frames"


def to_rgb(path: Path, image: Image.Image) -> tuple[Image.Image, list[Conversion]]:
    """Return the image in 8-bit RGB. Pillow's own conversion clips 16 bits and floats at 255."""
    if image.mode.startswith("I"):
        scale = partial(_scale, path, most=65535, valid="16-bit values")
        return _in_bands(image, scale), [Conversion.DEPTH]
    if image.mode == "F":
        scale = partial(_scale, path, most=1, valid="floats from 0 to 1")
        return _in_bands(image, scale), [Conversion.FLOAT]
    if image.has_transparency_data:
        return _in_bands(image, _lay_over_white), [Conversion.WHITE]

    if image.mode not in ("RGB", "CMYK", "L", "1", "P", "YCbCr"):
        raise UserError(f"{path}: image mode {image.mode} is not supported; save it as RGB")
    conversions = {"RGB": [], "CMYK": [Conversion.INK]}.get(image.mode, [Conversion.COLOURS])
    return image if image.mode == "RGB" else image.convert("RGB"), conversions


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return the image converted to RGB, a few rows at a time: whole images need gigabytes."""
    rows = max(1, BAND // image.width)
    converted = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted.paste(convert(band), (0, top))

    return converted


def _lay_over_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema() == (255, 255):
        return layer.convert("RGB")

    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _scale(path: Path, image: Image.Image, *, most: float, valid: str) -> Image.Image:
    """Return values from 0 to `most` as an RGB image. Raises UserError for other values."""
    values = np.asarray(image, dtype=np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite(values).all() or low < 0 or high > most:
        raise UserError(
            f"{path}: the image has values from {low:g} to {high:g}, but {valid} are needed; "
            "save it with 8 or 16 bits"
        )

    scaled = (values * (255 / most)).round().astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")
