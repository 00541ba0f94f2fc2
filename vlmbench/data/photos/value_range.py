"""Scale 16-bit photos whose camera fills 12 bits: else they are nearly black for a model.

The range is looked at over all photos together, so that no photo is made brighter than another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmbench.data.images import BROKEN, FORMATS, image_facts, read_image
from vlmbench.data.photos.photo import PhotoCopy
from vlmbench.types import UserError

log = logging.getLogger(__name__)

RANGES = ("auto", "12", "16")
MAX_12 = 4095
FACTOR = 16  # from 12 to 16 bits
DEEP_SUFFIXES = (*FORMATS["PNG"], *FORMATS["TIFF"])


def check_range_setting(value: Any) -> str:
    """Return `source.range` as text. Raise UserError for another value."""
    if str(value) not in RANGES:
        raise UserError(
            f"source.range must be one of {', '.join(RANGES)}, got {value}; set source.range=auto"
        )

    return str(value)


def scale_copies(
    copies: Sequence[PhotoCopy], *, folder: Path, value_range: str, source_path: str
) -> list[PhotoCopy]:
    """Return the copies, with 12-bit values scaled to 16 bits in their files.

    With "auto", the values are 12-bit ones if none of the set is larger than 4095; this is logged.
    Raise UserError for larger values with "12".
    """
    deep = [copy for copy in copies if _is_deep(copy)]
    if not deep or value_range == "16":
        return list(copies)

    most = max(int(_values(copy.path, folder).max()) for copy in deep)
    if most > MAX_12:
        if value_range == "12":
            raise UserError(
                f"source.path={source_path}: the photos have values up to {most}, more than 12 "
                "bits; set source.range=16"
            )
        return list(copies)

    if value_range == "auto":
        log.warning(
            "source.path=%s: %d photos of 16 bits have values up to %d alone. They are taken for "
            "12 bits and scaled; set source.range=12 to say so, or source.range=16 if they are to "
            "stay dark",
            source_path,
            len(deep),
            most,
        )
    return [_scale(copy, folder) if _is_deep(copy) else copy for copy in copies]


def warn_of_dark_images(paths: Iterable[Path], value_range: str) -> None:
    """Log which images to judge have 12-bit values, if the run's photos may have been scaled.

    Images that cannot be read are passed over: others report them.
    """
    if value_range == "16":
        return

    dark = [path for path in paths if _is_dark(path)]
    if dark:
        log.warning(
            "%s: the image has 16 bits, but no value above %d (%d such images). The run's photos "
            "were scaled if they had 12 bits (source.range=%s), images to judge are not: multiply "
            "their values by %d",
            dark[0],
            MAX_12,
            len(dark),
            value_range,
            FACTOR,
        )


def _is_deep(copy: PhotoCopy) -> bool:
    """Return whether a photo has 16 bits."""
    return copy.facts.mode.startswith("I")


def _is_dark(path: Path) -> bool:
    if path.suffix.lower() not in DEEP_SUFFIXES:
        return False
    try:
        with Image.open(BytesIO(read_image(path))) as image:
            return image.mode.startswith("I") and int(np.asarray(image).max()) <= MAX_12
    except (UserError, *BROKEN):
        return False


def _scale(copy: PhotoCopy, folder: Path) -> PhotoCopy:
    """Write the copy's file again, sixteen times as bright."""
    values = _values(copy.path, folder).astype(np.uint16) * FACTOR
    with Image.open(BytesIO(read_image(copy.path, inside=folder))) as stored:
        exif = stored.getexif()

    kind = next(name for name, suffixes in FORMATS.items() if copy.path.suffix.lower() in suffixes)
    content = BytesIO()
    Image.fromarray(values).save(content, format=kind, exif=exif)
    copy.path.write_bytes(content.getvalue())
    return replace(copy, facts=image_facts(copy.path, inside=folder))


def _values(path: Path, folder: Path) -> NDArray[np.int64]:
    content = BytesIO(read_image(path, inside=folder))
    with Image.open(content) as image:
        values: NDArray[np.int64] = np.asarray(image).astype(np.int64)
        return values
