"""Pixels for EfficientNet-Lite0."""

from __future__ import annotations

from typing import Any

from PIL.Image import Resampling
from transformers import CLIPImageProcessorPil

SIZE = 224


def smol_image_processor() -> Any:
    """Return a processor that resizes to 224 x 224 pixels (bicubic, no crop), with values in [-1,
    1].

    The PIL backend gives the same pixels on every machine.
    """
    return CLIPImageProcessorPil(
        size={"height": SIZE, "width": SIZE},
        resample=Resampling.BICUBIC,
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
