"""How the images of a record stand before the model: one by one, or stitched into one image."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from vlmbench.types import LazyImage

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]  # (width, height) in pixels
GAP = 16  # pixels between the images of a stitched pair


class Layout(StrEnum):
    """The layout of a pair of images. The text follows the images."""

    two_images = "two_images"
    # A single canvas: the publisher of Llama-3.2-Vision advises one image a prompt.
    stitched = "stitched"


def arrange_images(images: Sequence[LazyImage], layout: Layout) -> list[LazyImage]:
    """Return the images that the model sees. No image is opened."""
    if layout is not Layout.stitched or len(images) < 2:
        return list(images)

    hashes = tuple(image.hash for image in images)
    canvas = LazyImage(
        lambda: stitch([image.rgb for image in images]), version=("stitched", GAP, hashes)
    )
    return [canvas]


def arrange_sizes(sizes: Sequence[Size], layout: Layout) -> list[Size]:
    """Return the (width, height) of each image that the model sees."""
    if layout is not Layout.stitched or len(sizes) < 2:
        return list(sizes)
    return [stitched_size(sizes)]


def stitch(images: Sequence[Image]) -> Image:
    """Return the images side by side on white, scaled to the height of the tallest."""
    from PIL import Image

    sizes = [image.size for image in images]
    widths, height = _scale(sizes)
    canvas = Image.new("RGB", stitched_size(sizes), "white")

    left = 0
    for image, width in zip(images, widths, strict=True):
        canvas.paste(image.resize((width, height)), (left, 0))
        left += width + GAP
    return canvas


def stitched_size(sizes: Sequence[Size]) -> Size:
    """Return the (width, height) of the canvas for images of these (width, height)."""
    widths, height = _scale(sizes)
    return sum(widths) + GAP * (len(widths) - 1), height


def _scale(sizes: Sequence[Size]) -> tuple[list[int], int]:
    """Return the width of each image at the height of the tallest, and that height."""
    tallest = max(height for _, height in sizes)
    widths = [max(1, round(width * tallest / height)) for width, height in sizes]
    return widths, tallest
