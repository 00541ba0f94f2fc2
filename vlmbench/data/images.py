"""Open images from untrusted files as 8-bit RGB, and read the facts that leak checks need."""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePosixPath

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vlmbench.types import FileVersion, UserError

FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 100_000_000
MAX_BYTES = 1_000_000_000  # of a file
MAX_NAME = 255  # bytes of a file's or a folder's name
MAX_PATH = 1000  # bytes
# Pillow's decoders raise these errors on damaged bytes.
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, MemoryError, struct.error, zlib.error),
)
# Pillow warns about large images. Here MAX_PIXELS is an error instead.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
THUMBNAIL = 64  # pixels: width and height of the grey thumbnail that finds near-duplicates
ORIENTATION = 0x0112  # the EXIF tag
# EXIF orientation -> the function that turns stored pixels upright, as ImageOps.exif_transpose does
UPRIGHT: Mapping[int, Callable[[NDArray[np.bool_]], NDArray[np.bool_]]] = {
    2: np.fliplr,
    3: partial(np.rot90, k=2),
    4: np.flipud,
    5: np.transpose,
    6: partial(np.rot90, k=-1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """The facts of an image, read once from its file.

    Leak checks use the file's `sha256`, `phash` (64-bit perceptual hash) and `thumbnail` ((64, 64)
    uint8, grey). The datasheet uses `mode` in Pillow's words and `conversions`. The mode "RGB;16"
    has 16 bits a channel.
    """

    sha256: str
    width: int
    height: int
    phash: int
    thumbnail: NDArray[np.uint8] = field(compare=False)
    mode: str = "RGB"
    conversions: tuple[Conversion, ...] = ()


def image_path_error(name: str) -> str | None:
    """Return why `name` is no valid image path in the data's folder; None for a valid path."""
    if not name or not name.isprintable():
        return (
            f"image path {name!r} is empty or has control characters; "
            "give a path relative to the data's folder"
        )

    path = PurePosixPath(name)
    if len(name.encode()) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in path.parts):
        return f"image path {name[:60]!r}... is longer than a path may be; shorten it"
    if "\\" in name:
        return (
            f"image path {name!r} has backslashes; "
            "give a path relative to the data's folder, with /"
        )
    if path.is_absolute() or ".." in path.parts:
        return f"image path {name!r} leaves the data's folder; give a path relative to it"
    return None


def open_image(path: Path, *, inside: Path | None = None) -> Image.Image:
    """Return the image in RGB, converted as `Conversion` documents.

    Raises UserError for a file that does not exist, is outside the folder `inside` (also by a
    symbolic link), is empty, damaged or too large. Raises UserError too if the suffix does not
    match the format, and if values do not fit into 8 bits.
    """
    return _open_converted(path, inside)[0]


def open_mask(path: Path, *, inside: Path | None = None) -> NDArray[np.bool_]:
    """Return where a mask is not black, or not palette entry 0: (height, width).

    Raises UserError as `open_image` does.
    """
    with _open_file(path, inside) as image, _report_damage(path):
        image.load()
        is_plain = image.mode == "P" or image.mode.startswith("I")
        plain = image if is_plain else image.convert("RGB")

        values = np.asarray(plain).reshape(image.height, image.width, -1)
        marked: NDArray[np.bool_] = (values != 0).any(axis=2)
        return marked


def file_version(path: Path, inside: Path | None) -> FileVersion | None:
    """Return a key that changes whenever the file changes; None if the file does not exist."""
    try:
        stat = path.stat()
    except OSError:
        return None

    return path, inside, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


def image_size(path: Path, *, inside: Path | None = None) -> tuple[int, int]:
    """Return (width, height) from the header alone.

    Raises UserError as `open_image` does, except for damaged pixels.
    """
    with _open_file(path, inside) as image:
        return image.size


def turn_upright(
    stored: NDArray[np.bool_],
    path: Path,
    *,
    inside: Path | None = None,
) -> NDArray[np.bool_]:
    """Return an array of an image's stored pixels, (height, width), turned as the image is shown.

    The image's EXIF orientation decides. Raises UserError as `open_image` does.
    """
    with _open_file(path, inside) as image, _report_damage(path):
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
        return stored if turn is None else turn(stored)


def image_facts(path: Path, *, inside: Path | None = None) -> ImageFacts:
    """Return the facts of an image. Raises UserError as `open_image` does."""
    image, mode, conversions = _open_converted(path, inside)
    grey = image.convert("L")
    small = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)

    return ImageFacts(
        sha256=file_sha256(path),
        width=grey.width,
        height=grey.height,
        phash=int(str(imagehash.phash(grey)), 16),
        thumbnail=np.asarray(small, dtype=np.uint8),
        mode=mode,
        conversions=conversions,
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, without reading them all into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_converted(
    path: Path,
    inside: Path | None,
) -> tuple[Image.Image, str, tuple[Conversion, ...]]:
    """Return the image as models see it, its file's mode and its conversions."""
    with _open_file(path, inside) as image, _report_damage(path):
        tiles = getattr(image, "tile", ())
        is_deep = not image.mode.startswith("I") and any(";16" in str(tile) for tile in tiles)
        mode = f"{image.mode};16" if is_deep else image.mode

        conversions: list[Conversion] = []
        if image.getexif().get(ORIENTATION, 1) in UPRIGHT:
            conversions.append(Conversion.UPRIGHT)
        if is_deep:
            conversions.append(Conversion.CHANNEL_DEPTH)
        if getattr(image, "is_animated", False):
            conversions.append(Conversion.FIRST_FRAME)

        image.load()
        rgb, rgb_conversions = _to_rgb(path, ImageOps.exif_transpose(image))
        return rgb, mode, (*conversions, *rgb_conversions)


@contextmanager
def _report_damage(path: Path) -> Iterator[None]:
    """Turn Pillow's errors from the body into a UserError that names the file."""
    try:
        yield
    except BROKEN as error:
        cause = str(error) or type(error).__name__
        raise UserError(
            f"{path}: the image is damaged ({cause}); replace the file, or save it again"
        ) from error


@contextmanager
def _open_file(path: Path, inside: Path | None) -> Iterator[Image.Image]:
    """Open the file after checks of its path, size and header. Pixels are not decoded."""
    _check_file(path, inside)
    try:
        image = Image.open(path, formats=tuple(FORMATS))
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path}: {error}; the limit is {MAX_PIXELS} pixels, scale the image down"
        ) from error
    except (UnidentifiedImageError, *BROKEN) as error:
        formats = ", ".join(FORMATS)
        raise UserError(
            f"{path}: not a readable image ({formats}); convert or replace it"
        ) from error

    with image:
        _check_header(path, image)
        yield image


def _check_file(path: Path, inside: Path | None) -> None:
    """Raise UserError unless the path is a file in the folder `inside`, of a size in the limits."""
    try:
        exists = path.is_file()
        size = path.stat().st_size if exists else 0
    except OSError as error:  # no file can have such a name
        raise UserError(
            f"{path}: the path cannot be opened ({error.strerror}); fix the path"
        ) from error

    if not exists:
        raise UserError(f"{path}: the image does not exist; fix the path or add the file")
    if inside is not None and not path.resolve().is_relative_to(inside.resolve()):
        raise UserError(
            f"{path}: the link leads out of the folder {inside}; copy the image into the folder"
        )
    if size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes); replace it")
    if size > MAX_BYTES:
        raise UserError(
            f"{path}: the file has {size} bytes, the limit is {MAX_BYTES}; scale the image down"
        )


def _check_header(path: Path, image: Image.Image) -> None:
    """Raise UserError for too many pixels, and for a suffix that does not match the format."""
    if image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"{path}: the image has {image.width} x {image.height} pixels, the limit is "
            f"{MAX_PIXELS}; scale it down"
        )

    # MPO: phones put several JPEGs into one file.
    suffixes = FORMATS["JPEG" if image.format == "MPO" else str(image.format)]
    if path.suffix.lower() not in suffixes:
        raise UserError(
            f"{path}: the file holds a {image.format} image; rename it to {suffixes[0]}"
        )


def _to_rgb(path: Path, image: Image.Image) -> tuple[Image.Image, list[Conversion]]:
    """Return the image in 8-bit RGB. Pillow's own conversion clips 16 bits and floats at 255."""
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float64)
        return _scale(path, values, most=65535, valid="16-bit values"), [Conversion.DEPTH]
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        return _scale(path, values, most=1, valid="floats from 0 to 1"), [Conversion.FLOAT]
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB"), [Conversion.WHITE]

    if image.mode not in ("RGB", "CMYK", "L", "1", "P", "YCbCr"):
        raise UserError(f"{path}: image mode {image.mode} is not supported; save it as RGB")
    conversions = {"RGB": [], "CMYK": [Conversion.INK]}.get(image.mode, [Conversion.COLOURS])
    return image.convert("RGB"), conversions


def _scale(path: Path, values: NDArray[np.float64], *, most: float, valid: str) -> Image.Image:
    """Return values from 0 to `most` as an RGB image. Raises UserError for other values."""
    low, high = values.min(), values.max()
    if not np.isfinite(values).all() or low < 0 or high > most:
        raise UserError(
            f"{path}: the image has values from {low:g} to {high:g}, but {valid} are needed; "
            "save it with 8 or 16 bits"
        )

    scaled = (values * (255 / most)).round().astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")
