"""Open images from untrusted files as 8-bit RGB, and read the facts that leak checks need."""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vlmbench.data.image_limits import MAX_PIXELS, check_content, check_size, check_tags
from vlmbench.data.image_modes import Conversion, to_rgb
from vlmbench.data.lines import read_error
from vlmbench.data.paths import describe_missing
from vlmbench.system.files import MAX_NAME
from vlmbench.types import FileVersion, UserError

FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_BYTES = 500_000_000  # of a file
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
RAW_EXIF = "Raw profile type exif"  # the text of a PNG that holds EXIF in hexadecimal
ORIENTED = ("exif", "xmp", "XML:com.adobe.xmp", RAW_EXIF)  # they name the orientation
Stored = TypeVar("Stored", bound=np.generic)
Check = Callable[[Path, bytes], None]  # raises UserError for unexpected bytes
# EXIF orientation -> the function that turns stored pixels upright, as ImageOps.exif_transpose does
UPRIGHT: Mapping[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: partial(np.rot90, k=2),
    4: np.flipud,
    5: np.transpose,
    6: partial(np.rot90, k=-1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """The facts of an image, read once from its file.

    Leak checks use the file's `sha256`, `phash` (64-bit perceptual hash) and `thumbnail` ((64, 64)
    uint8, grey). The datasheet uses `mode` in Pillow's words and `conversions`. The mode "RGB;16"
    has 16 bits a channel. `version` is the file's when it was read.
    """

    sha256: str
    width: int
    height: int
    phash: int
    thumbnail: NDArray[np.uint8] = field(compare=False)
    mode: str = "RGB"
    conversions: tuple[Conversion, ...] = ()
    version: FileVersion | None = field(default=None, compare=False)


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


def open_image(
    path: Path, *, inside: Path | None = None, check: Check | None = None
) -> Image.Image:
    """Return the image in RGB, converted as `Conversion` documents.

    `check` sees the file's bytes before they are decoded.

    Raises UserError for a file that does not exist, is outside the folder `inside` (also by a
    symbolic link), is empty, damaged or too large. Raises UserError too if its suffix is not one of
    SUFFIXES, and if values do not fit into 8 bits.
    """
    return decode_image(path, read_image(path, inside=inside, check=check))


def read_image(path: Path, *, inside: Path | None = None, check: Check | None = None) -> bytes:
    """Return the bytes of an image file. Raise UserError as `open_image` does.

    Decoders get these bytes. They would map the file, and a mapped file must not be cut.
    """
    _check_file(path, inside)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise read_error(path, error) from error

    if check is not None:
        check(path, content)
    return content


def decode_image(path: Path, content: bytes) -> Image.Image:
    """Return the image in RGB from the bytes of its file. Raise UserError as `open_image` does."""
    return _decode(path, content)[0]


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

    return path, inside, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def image_size(path: Path, *, inside: Path | None = None) -> tuple[int, int]:
    """Return (width, height) from the header alone.

    Raises UserError as `open_image` does, except for damaged pixels.
    """
    with _open_file(path, inside) as image:
        return image.size


def turn_upright(
    stored: NDArray[Stored],
    path: Path,
    *,
    inside: Path | None = None,
) -> NDArray[Stored]:
    """Return an array of an image's stored pixels, (height, width), turned as the image is shown.

    The image's EXIF orientation decides. Raises UserError as `open_image` does.
    """
    with _open_file(path, inside) as image, _report_damage(path):
        image.load()
        turn = UPRIGHT.get(_orientation(path, image) or 1)
        return stored if turn is None else turn(stored)


def image_facts(path: Path, *, inside: Path | None = None) -> ImageFacts:
    """Return the facts of an image. Raises UserError as `open_image` does."""
    version = file_version(path, None)  # before the bytes: a later change shows
    content = read_image(path, inside=inside)
    image, mode, conversions = _decode(path, content)
    with _report_damage(path):
        grey = image.convert("L")
        small = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
        phash = int(str(imagehash.phash(grey)), 16)

    return ImageFacts(
        sha256=hashlib.sha256(content).hexdigest(),
        width=grey.width,
        height=grey.height,
        phash=phash,
        thumbnail=np.asarray(small, dtype=np.uint8),
        mode=mode,
        conversions=conversions,
        version=version,
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, without reading them all into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _decode(path: Path, content: bytes) -> tuple[Image.Image, str, tuple[Conversion, ...]]:
    """Return the image as models see it, its file's mode and its conversions."""
    with _open_content(path, content) as image, _report_damage(path):
        tiles = getattr(image, "tile", ())
        is_deep = not image.mode.startswith("I") and any(";16" in str(tile) for tile in tiles)
        mode = f"{image.mode};16" if is_deep else image.mode

        image.load()
        conversions: list[Conversion] = []
        orientation = _orientation(path, image)
        if orientation in UPRIGHT:
            conversions.append(Conversion.UPRIGHT)
        if is_deep:
            conversions.append(Conversion.CHANNEL_DEPTH)
        if getattr(image, "is_animated", False):
            conversions.append(Conversion.FIRST_FRAME)

        upright = image if orientation not in TURNS else image.transpose(TURNS[orientation])
        if orientation in TURNS:
            for name in ORIENTED:  # otherwise a processor turns the image once more
                upright.info.pop(name, None)
        rgb, rgb_conversions = to_rgb(path, upright)
        return rgb, mode, (*conversions, *rgb_conversions)


def _orientation(path: Path, image: Image.Image) -> int | None:
    """Return the EXIF orientation of a loaded image; None for another value than a number."""
    exif = image.info.get("exif") or b""
    with suppress(ValueError, TypeError):
        exif = exif or bytes.fromhex("".join(image.info.get(RAW_EXIF, "").split("\n")[3:]))
    check_tags(path, exif.removeprefix(b"Exif\0\0"))

    orientation = image.getexif().get(ORIENTATION, 1)
    return orientation if isinstance(orientation, int) else None


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
    with _open_content(path, read_image(path, inside=inside)) as image:
        yield image


@contextmanager
def _open_content(path: Path, content: bytes) -> Iterator[Image.Image]:
    """Open the bytes of a file after checks of its size and header. Pixels are not decoded."""
    check_content(path, content)
    try:
        image = Image.open(BytesIO(content), formats=tuple(FORMATS))
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
        raise UserError(f"{path}: {describe_missing(path)}")
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
    """Raise UserError for too many pixels, and for a suffix of no photo.

    A JPEG named .png is read: cameras and converters write such names.
    """
    check_size(path, image.width, image.height)

    # MPO: phones put several JPEGs into one file.
    suffixes = FORMATS["JPEG" if image.format == "MPO" else str(image.format)]
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path}: the file holds a {image.format} image; rename it to {suffixes[0]}"
        )
