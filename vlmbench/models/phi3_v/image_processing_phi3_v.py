"""Pixels for Phi-3-vision: an image becomes a grid of tiles and one view of the whole image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.processing_utils import ImagesKwargs

from vlmbench.types import UserError

WHITE = (255, 255, 255)


class ImageError(UserError, ValueError):
    """An invalid image, or an image tag without its image. A ValueError too, as in transformers."""


class Phi3VImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings of an image processor or of one call.

    num_crops (`int`, *optional*, defaults to 1):
        The most tiles of an image. The released models' files have 16 (3.0) and 4 (3.5).
    tile_size (`int`, *optional*, defaults to 336):
        Width and height of a tile in pixels: the vision tower's `image_size`.
    num_img_tokens (`int`, *optional*, defaults to 144):
        Tokens of one tile without separators: a square number.
    """

    num_crops: int
    tile_size: int
    num_img_tokens: int


def hd_size(
    width: int, height: int, num_crops: int, tile_size: int = 336
) -> tuple[int, int, int, int]:
    """Return the resized width and height of an image, then its width and height padded to tiles.

    The longer edge gets as many tiles as possible while the grid has at most `num_crops` tiles. A
    small image is enlarged. Raise ImageError if the shorter edge would vanish, or if `num_crops` is
    below 1.
    """
    if num_crops < 1:
        raise ImageError(f"num_crops must be at least 1, got {num_crops}; set num_crops=1")

    ratio = max(width, height) / min(width, height)
    columns = 1
    while (columns + 1) * math.ceil((columns + 1) / ratio) <= num_crops:
        columns += 1

    new_long = columns * tile_size
    new_short = int(new_long / ratio)
    if new_short < 1:
        raise ImageError(
            f"image of {width}x{height} pixels: one edge is more than {new_long} times the other, "
            f"so nothing is left of it at num_crops={num_crops}; crop the image or set a larger "
            "num_crops"
        )

    padded_short = math.ceil(new_short / tile_size) * tile_size
    if width < height:
        return new_short, new_long, padded_short, new_long

    return new_long, new_short, new_long, padded_short


def count_img_tokens(
    height: int, width: int, tile_size: int = 336, num_img_tokens: int = 144
) -> int:
    """Return the tokens of an image of the padded size `height` x `width`, separators included."""
    rows, columns = height // tile_size, width // tile_size
    rows_per_tile = math.isqrt(num_img_tokens)
    row_ends = (rows + 1) * rows_per_tile

    return (rows * columns + 1) * num_img_tokens + 1 + row_ends


class Phi3VImageProcessor(PilBackend):
    """Resize images, pad them with white and cut them into tiles.

    This is the "HD transform" of InternLM-XComposer2-4KHD (arXiv:2404.06512). Images are PIL images
    or 8-bit arrays; alpha is dropped, not blended. The PIL backend alone gives the same pixels on
    every machine, with or without torchvision.
    """

    model_input_names = ["pixel_values", "image_sizes"]  # noqa: RUF012
    valid_kwargs = Phi3VImageProcessorKwargs

    resample = Image.Resampling.BILINEAR
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    do_convert_rgb = True
    num_crops = 1
    tile_size = 336
    num_img_tokens = 144

    def __init__(self, **kwargs: Any) -> None:
        kwargs.pop("auto_map", None)  # names remote code, which never runs
        super().__init__(**kwargs)

    def get_num_img_tokens(
        self, height: int, width: int, num_crops: int | None = None, tile_size: int | None = None
    ) -> int:
        """Return the tokens of an image of `height` x `width` pixels, without opening it."""
        crops = self.num_crops if num_crops is None else num_crops
        tile = self.tile_size if tile_size is None else tile_size
        *_, padded_width, padded_height = hd_size(width, height, crops, tile)
        return count_img_tokens(padded_height, padded_width, tile, self.num_img_tokens)

    def hd_image(
        self, image: Image.Image, num_crops: int | None = None, tile_size: int | None = None
    ) -> Image.Image:
        """Return the image in RGB, resized and padded with white to whole tiles."""
        crops = self.num_crops if num_crops is None else num_crops
        tile = self.tile_size if tile_size is None else tile_size

        image = image.convert("RGB")
        new_width, new_height, padded_width, padded_height = hd_size(*image.size, crops, tile)

        # PIL resizes the width first and rounds in between, so a tall image is transposed before.
        if image.width < image.height:
            transposed = image.transpose(Image.Transpose.TRANSPOSE)
            transposed = transposed.resize((new_height, new_width), self.resample)
            image = transposed.transpose(Image.Transpose.TRANSPOSE)
        else:
            image = image.resize((new_width, new_height), self.resample)

        padded = Image.new("RGB", (padded_width, padded_height), WHITE)
        left, top = (padded_width - new_width) // 2, (padded_height - new_height) // 2
        padded.paste(image, (left, top))

        return padded

    def _preprocess(
        self,
        images: Sequence[np.ndarray],
        num_crops: int,
        tile_size: int,
        num_img_tokens: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Return `pixel_values`, `image_sizes` and `num_img_tokens` of (3, H, W) 8-bit arrays.

        `pixel_values` (N, num_crops + 1, 3, tile, tile) holds the whole view, the tiles row by row,
        then zeros. `image_sizes` (N, 2) holds the padded heights and widths in pixels,
        `num_img_tokens` (N,) the number of tokens.
        """
        pixel_values = np.zeros(
            (len(images), num_crops + 1, 3, tile_size, tile_size), dtype=np.float32
        )
        sizes = []

        for image, crops in zip(images, pixel_values, strict=True):
            padded = self.hd_image(_to_pil(image), num_crops, tile_size)
            sizes.append([padded.height, padded.width])
            tiles = _cut_tiles(padded, tile_size, image_mean, image_std)
            crops[: len(tiles)] = tiles

        counts = [count_img_tokens(*size, tile_size, num_img_tokens) for size in sizes]
        data = {
            "pixel_values": pixel_values,
            "image_sizes": np.array(sizes),
            "num_img_tokens": np.array(counts),
        }
        return BatchFeature(data, tensor_type=return_tensors)


def _to_pil(image: np.ndarray) -> Image.Image:
    if image.dtype != np.uint8:
        raise ImageError(
            f"image array must be of type uint8, got {image.dtype}; "
            "pass PIL images, or arrays of type uint8 (0 to 255)"
        )

    channels = image.transpose(1, 2, 0)
    return Image.fromarray(channels[..., 0] if channels.shape[-1] == 1 else channels)


def _cut_tiles(
    image: Image.Image, tile: int, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
    """Return (1 + rows * columns, 3, tile, tile) of the normalised image: the whole view first."""
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    pixels = (pixels - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)
    pixels = pixels.transpose(2, 0, 1)

    # As published: the padded image, squeezed to a square, without antialiasing or clamping.
    batch = torch.from_numpy(pixels.copy())[None]
    whole = F.interpolate(batch, size=(tile, tile), mode="bicubic").numpy()

    rows, columns = image.height // tile, image.width // tile
    grid = pixels.reshape(3, rows, tile, columns, tile).transpose(1, 3, 0, 2, 4)

    return np.concatenate([whole, grid.reshape(-1, 3, tile, tile)])


__all__ = [
    "ImageError",
    "Phi3VImageProcessor",
    "Phi3VImageProcessorKwargs",
    "count_img_tokens",
    "hd_size",
]
