"""Pixels for Phi-3-vision: a picture becomes a grid of tiles and one view of the whole."""

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


class PictureError(UserError, ValueError):
    """Pictures, or the tags that stand for them, that cannot be used. A ValueError too, as in all of transformers."""


class Phi3VImageProcessorKwargs(ImagesKwargs, total=False):
    """What may be set for an image processor or for one call.

    num_crops (`int`, *optional*, defaults to 1):
        The most tiles that a picture is cut into. The released models' files say 16 (3.0) and 4 (3.5).
    tile_size (`int`, *optional*, defaults to 336):
        Side of a tile in pixels: the vision tower's `image_size`.
    num_img_tokens (`int`, *optional*, defaults to 144):
        Tokens of one tile, separators not counted: a square number.
    """

    num_crops: int
    tile_size: int
    num_img_tokens: int


def hd_size(width: int, height: int, num_crops: int, tile_size: int = 336) -> tuple[int, int, int, int]:
    """The size (width, height) to resize a picture to, and the size (width, height) in whole tiles to pad that to.

    The longer side gets the most tiles that leave the grid at `num_crops` tiles or fewer; a small picture is
    enlarged. Raises PictureError for a picture so narrow that nothing of its shorter side would be left, and for
    `num_crops` below 1.
    """
    if num_crops < 1:
        raise PictureError(f"num_crops={num_crops}: a picture needs at least one tile; set num_crops=1 or more")
    long, short = max(width, height), min(width, height)
    ratio = long / short
    columns = 1
    while (columns + 1) * math.ceil((columns + 1) / ratio) <= num_crops:
        columns += 1
    new_long = columns * tile_size
    new_short = int(new_long / ratio)
    if new_short < 1:
        raise PictureError(
            f"picture of {width}x{height} pixels: one side is more than {new_long} times the other, so nothing of it "
            f"is left at num_crops={num_crops}; cut it up or raise num_crops"
        )
    padded_short = math.ceil(new_short / tile_size) * tile_size
    if width < height:
        return new_short, new_long, padded_short, new_long
    return new_long, new_short, new_long, padded_short


def count_img_tokens(height: int, width: int, tile_size: int = 336, num_img_tokens: int = 144) -> int:
    """Tokens of a picture whose padded size is `height` x `width`: tiles, whole view, and their separators."""
    rows, columns, side = height // tile_size, width // tile_size, math.isqrt(num_img_tokens)
    return (rows * columns + 1) * num_img_tokens + 1 + (rows + 1) * side


class Phi3VImageProcessor(PilBackend):
    """Resizes, pads with white and cuts pictures into tiles (the "HD transform" of InternLM-XComposer2-4KHD,
    arXiv:2404.06512). Takes PIL pictures, or 8-bit arrays; alpha is dropped, not blended.

    Built on the PIL backend alone, so that a machine with torchvision sees the same pixels.
    """

    model_input_names = ["pixel_values", "image_sizes"]  # noqa: RUF012 - as in every image processor of transformers
    valid_kwargs = Phi3VImageProcessorKwargs

    resample = Image.Resampling.BILINEAR
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    do_convert_rgb = True
    num_crops = 1
    tile_size = 336
    num_img_tokens = 144

    def __init__(self, **kwargs: Any) -> None:
        kwargs.pop("auto_map", None)  # names remote code, which is never run nor saved again
        super().__init__(**kwargs)

    def get_num_img_tokens(
        self, height: int, width: int, num_crops: int | None = None, tile_size: int | None = None
    ) -> int:
        """How many tokens a picture of `height` x `width` pixels takes, from its size alone."""
        crops = self.num_crops if num_crops is None else num_crops
        tile = self.tile_size if tile_size is None else tile_size
        *_, padded_width, padded_height = hd_size(width, height, crops, tile)
        return count_img_tokens(padded_height, padded_width, tile, self.num_img_tokens)

    def hd_image(self, image: Image.Image, num_crops: int | None = None, tile_size: int | None = None) -> Image.Image:
        """The picture in RGB, resized and padded with white to whole tiles."""
        crops = self.num_crops if num_crops is None else num_crops
        tile = self.tile_size if tile_size is None else tile_size
        image = image.convert("RGB")
        new_width, new_height, padded_width, padded_height = hd_size(*image.size, crops, tile)
        # A tall picture is laid on its side for the resize: PIL resizes the width first and rounds in between.
        tall = image.width < image.height
        if tall:
            image = image.transpose(Image.Transpose.TRANSPOSE)
            image = image.resize((new_height, new_width), self.resample).transpose(Image.Transpose.TRANSPOSE)
        else:
            image = image.resize((new_width, new_height), self.resample)
        padded = Image.new("RGB", (padded_width, padded_height), WHITE)
        padded.paste(image, ((padded_width - new_width) // 2, (padded_height - new_height) // 2))
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
        """`images` are (3, H, W) 8-bit arrays. Gives `pixel_values` (N, num_crops + 1, 3, tile, tile): the whole view,
        the tiles row by row, then zeros; `image_sizes` (N, 2), height and width in whole tiles of pixels; and
        `num_img_tokens` (N,)."""
        pixel_values = np.zeros((len(images), num_crops + 1, 3, tile_size, tile_size), dtype=np.float32)
        sizes = []
        for image, crops in zip(images, pixel_values, strict=True):
            hd = self.hd_image(_to_pil(image), num_crops, tile_size)
            sizes.append([hd.height, hd.width])
            tiles = _tiles(hd, tile_size, image_mean, image_std)
            crops[: len(tiles)] = tiles
        counts = [count_img_tokens(*size, tile_size, num_img_tokens) for size in sizes]
        data = {"pixel_values": pixel_values, "image_sizes": np.array(sizes), "num_img_tokens": np.array(counts)}
        return BatchFeature(data, tensor_type=return_tensors)


def _to_pil(image: np.ndarray) -> Image.Image:
    if image.dtype != np.uint8:
        raise PictureError(f"picture of type {image.dtype}: pass PIL pictures, or arrays of type uint8 (0 to 255)")
    channels = image.transpose(1, 2, 0)
    return Image.fromarray(channels[..., 0] if channels.shape[-1] == 1 else channels)


def _tiles(hd: Image.Image, tile: int, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(1 + rows * columns, 3, tile, tile) of the normalised picture: the whole view first."""
    pixels = np.asarray(hd, dtype=np.float32) / np.float32(255)
    pixels = (pixels - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)
    pixels = pixels.transpose(2, 0, 1)
    # Of the normalised and padded picture, without antialiasing or clamping, its aspect ratio not kept.
    whole = F.interpolate(torch.from_numpy(pixels.copy())[None], size=(tile, tile), mode="bicubic").numpy()
    rows, columns = hd.height // tile, hd.width // tile
    grid = pixels.reshape(3, rows, tile, columns, tile).transpose(1, 3, 0, 2, 4)
    return np.concatenate([whole, grid.reshape(-1, 3, tile, tile)])


__all__ = ["Phi3VImageProcessor", "Phi3VImageProcessorKwargs", "PictureError", "count_img_tokens", "hd_size"]
