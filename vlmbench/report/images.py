"""Thumbnails of a record's images, embedded in the page as data URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vlmbench.data.images import BROKEN, FORMATS
from vlmbench.types import Prediction

THUMBNAIL = 224  # pixels of the longer edge: two thumbnails fit a phone
HOT = (230, 30, 20)  # the colour of the hottest location of a heat map


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """An image on the page. `uri` is "" if the file cannot be shown.

    `blank` marks a blank reference, which the model sees as a grey image.
    """

    caption: str
    name: str
    uri: str = ""
    blank: bool = False


def thumbnails_of(prediction: Prediction) -> tuple[Thumbnail, ...]:
    """Return the thumbnails of a record, the reference before the query."""
    paths = prediction.images
    captions = ("reference", "query") if len(paths) == 2 else ("query",) * len(paths)

    return tuple(thumbnail_of(path, caption) for path, caption in zip(paths, captions, strict=True))


def thumbnail_of(path: str, caption: str) -> Thumbnail:
    """Return the thumbnail of a file; "" as the path means a blank reference."""
    if path == "":
        return Thumbnail(
            caption=caption,
            name="blank",
            blank=True,
        )

    return Thumbnail(
        caption=caption,
        name=Path(path).name,
        uri=_thumbnail_uri(path),
    )


def heat_thumbnail(path: str, heat: NDArray[np.uint8], caption: str) -> Thumbnail | None:
    """Return the image in grey under a heat map (rows, columns); red is the hottest, 255.

    None if the file cannot be shown.
    """
    small = _small_image(path)
    if small is None:
        return None

    grey = small.convert("L").convert("RGB")
    mask = Image.fromarray(heat).resize(grey.size, Image.Resampling.BILINEAR)
    red = Image.new("RGB", grey.size, HOT)
    uri = webp_uri(Image.composite(red, grey, mask))
    return Thumbnail(
        caption=caption,
        name=Path(path).name,
        uri=uri,
    )


@lru_cache(maxsize=512)  # records of one sweep share images
def _thumbnail_uri(path: str) -> str:
    """Return the data URI of a small WebP; "" if the file is missing or is no image."""
    small = _small_image(path)
    return "" if small is None else webp_uri(small)


def _small_image(path: str) -> Image.Image | None:
    """Return the image as a thumbnail in RGB; None if the file is missing or is no image."""
    try:
        # Reading a pipe would wait for its writer.
        if not Path(path).is_file():
            return None

        with Image.open(path, formats=tuple(FORMATS)) as image:
            small = _to_eight_bit(image)
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            small = ImageOps.exif_transpose(small)
    except (*BROKEN, Image.DecompressionBombError):
        return None

    return small.convert("RGB")


def webp_uri(image: Image.Image) -> str:
    """Return the image as a data URI of WebP, quality 80."""
    target = BytesIO()
    image.save(target, "WEBP", quality=80)
    encoded = base64.b64encode(target.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{encoded}"


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Return a 16-bit grey image by its upper byte; Pillow would show values above 255 as white."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))

    return image
