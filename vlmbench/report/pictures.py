"""Pictures made small, as a page holds them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vlmbench.data.pictures import BROKEN, FORMATS
from vlmbench.types import Prediction

THUMBNAIL = 224  # pixels of the longer side: two of them fit a phone


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """`uri` is "" where the file cannot be shown; `blank` is the grey picture of a blank reference."""

    caption: str
    name: str
    uri: str = ""
    blank: bool = False


def pictures_of(prediction: Prediction) -> tuple[Picture, ...]:
    """The pictures of a record as shown, the reference before the query."""
    captions = ("reference", "query") if len(prediction.images) == 2 else ("query",) * len(prediction.images)
    return tuple(picture_of(path, caption) for path, caption in zip(prediction.images, captions, strict=True))


def picture_of(path: str, caption: str) -> Picture:
    """The picture of a file made small, or what stands for it."""
    if path == "":
        return Picture(caption=caption, name="blank", blank=True)
    return Picture(caption=caption, name=Path(path).name, uri=_thumbnail(path))


@lru_cache(maxsize=512)  # records of one sweep share pictures
def _thumbnail(path: str) -> str:
    """A data URI of the picture made small; "" where the file is missing or is no picture."""
    try:
        if not Path(path).is_file():  # a pipe would be waited for
            return ""
        with Image.open(path, formats=tuple(FORMATS)) as image:
            small = _eight_bit(image)
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            small = ImageOps.exif_transpose(small)
    except (*BROKEN, Image.DecompressionBombError):
        return ""
    target = BytesIO()
    small.convert("RGB").save(target, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(target.getvalue()).decode('ascii')}"


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pillow shows every 16-bit grey above 255 as white: keep the upper byte instead."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image
