"""Opening pictures that nobody has vouched for, and the facts that leak checks need of each."""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vlmbench.types import UserError

FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WEBP": (".webp",), "BMP": (".bmp",), "TIFF": (".tif", ".tiff")}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MOST_CONTENTS = 1_000_000  # files whose contents are remembered
MAX_PIXELS = 100_000_000
MAX_BYTES = 1_000_000_000  # of a file
MAX_NAME = 255  # bytes of a file's or a folder's name
MAX_PATH = 1000  # bytes
# What Pillow's decoders raise on bytes that they did not expect.
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError),
    *(struct.error, zlib.error),
)
# Pillow warns of large pictures; MAX_PIXELS is an error instead.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
THUMBNAIL = 32  # side in pixels of the grey thumbnail that confirms a near-duplicate
ORIENTATION = 0x0112  # the EXIF tag
# EXIF orientation -> what turns stored rows and columns upright, as ImageOps.exif_transpose does.
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
    """What is done to a file's picture before a model sees it: models see 8-bit RGB, upright."""

    UPRIGHT = "turned upright by its EXIF orientation"
    DEPTH = "16-bit grey scaled to 8 bits (divided by 257)"
    CHANNEL_DEPTH = "16 bits a channel cut to the upper 8"
    FLOAT = "floats from 0 to 1 scaled to 8 bits"
    INK = "CMYK to RGB by Pillow's formula, without colour profile"
    WHITE = "transparency laid over white"
    COLOURS = "grey, 1-bit, palette or YCbCr to RGB"
    FIRST_FRAME = "the first of several frames"


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """What is read of a picture once: `sha256` of the file, a 64-bit perceptual hash, a (32, 32) uint8 grey thumbnail
    for leak checks; for the datasheet the file's mode in Pillow's words ("RGB;16": 16 bits a channel), and what is
    converted."""

    sha256: str
    width: int
    height: int
    phash: int
    thumbnail: NDArray[np.uint8] = field(compare=False)
    mode: str = "RGB"
    conversions: tuple[Conversion, ...] = ()


def path_error(name: str) -> str | None:
    """Why a picture's path, as data names it, cannot be taken as one within the data's folder; None: it can."""
    if not name or not name.isprintable():
        return f"picture path {name!r} is empty or has control characters; give a path relative to the data's folder"
    path = PurePosixPath(name)
    if len(name.encode()) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in path.parts):
        return f"picture path {name[:60]!r}... is longer than a path may be; shorten it"
    if "\\" in name:
        return f"picture path {name!r} has backslashes; give a path relative to the data's folder, with /"
    if path.is_absolute() or ".." in path.parts:
        return f"picture path {name!r} leaves the data's folder; give a path relative to it"
    return None


def open_picture(path: Path, *, inside: Path | None = None) -> Image.Image:
    """The picture in RGB, converted as `Conversion` says.

    Raises UserError for a file that is missing, outside the folder `inside` (also by a symbolic link), empty, cut
    short, too large, of another kind than its name says, or with values that have no place in 8 bits.
    """
    return _converted(path, inside)[0]


def open_mask(path: Path, *, inside: Path | None = None) -> NDArray[np.bool_]:
    """Where a mask's picture is not black (or not of palette entry 0), (height, width). Raises as `open_picture`."""
    with _opened(path, inside) as image, _damage(path):
        image.load()
        plain = image if image.mode == "P" or image.mode.startswith("I") else image.convert("RGB")
        values = np.asarray(plain).reshape(image.height, image.width, -1)
        marked: NDArray[np.bool_] = (values != 0).any(axis=2)
        return marked


def content_key(image: Image.Image) -> str:
    """SHA-256 of what a model will see of the picture: its mode, its size and its pixels."""
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


class Picture:
    """A picture as shown, opened only where its pixels are wanted, and then once.

    `image` is RGB; `key` is of its content, `size` its (width, height). Where its file was seen before, in its `place`,
    these two are known without opening it.
    """

    def __init__(self, load: Callable[[], Image.Image], *, place: Hashable | None = None) -> None:
        self._load, self._place = load, place

    @cached_property
    def image(self) -> Image.Image:
        return self._load()

    @cached_property
    def _content(self) -> tuple[str, tuple[int, int]]:
        known = _contents.get(self._place)
        if known is None:
            known = content_key(self.image), self.image.size
            if self._place is not None and len(_contents) < MOST_CONTENTS:
                _contents[self._place] = known
        return known

    @property
    def is_known(self) -> bool:
        """Whether `key` and `size` are there without opening it."""
        return "_content" in self.__dict__ or self._place in _contents

    @property
    def key(self) -> str:
        return self._content[0]

    @property
    def size(self) -> tuple[int, int]:
        return self._content[1]


_contents: dict[Hashable, tuple[str, tuple[int, int]]] = {}  # what is known of files, by place


def place_of(path: Path, inside: Path | None) -> Hashable | None:
    """Where a picture's file stands, as long as it does not change; None where there is no such file."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return path, inside, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size


def picture_size(path: Path, *, inside: Path | None = None) -> tuple[int, int]:
    """(width, height) from the header alone. Raises UserError as `open_picture` does, but for damaged content."""
    with _opened(path, inside) as image:
        return image.size


def turned_upright(stored: NDArray[np.bool_], path: Path, *, inside: Path | None = None) -> NDArray[np.bool_]:
    """What belongs to a picture's stored pixels, (height, width), turned as the picture is shown: by its EXIF
    orientation. Raises UserError as `open_picture` does."""
    with _opened(path, inside) as image, _damage(path):
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
        return stored if turn is None else turn(stored)


def picture_facts(path: Path, *, inside: Path | None = None) -> PictureFacts:
    """Read the file once for its hashes. Raises UserError as `open_picture` does."""
    image, mode, conversions = _converted(path, inside)
    grey = image.convert("L")
    small = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return PictureFacts(
        sha256=file_sha256(path),
        width=grey.width,
        height=grey.height,
        phash=int(str(imagehash.phash(grey)), 16),
        thumbnail=np.asarray(small, dtype=np.uint8),
        mode=mode,
        conversions=conversions,
    )


def file_sha256(path: Path) -> str:
    """Of a file's bytes, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _converted(path: Path, inside: Path | None) -> tuple[Image.Image, str, tuple[Conversion, ...]]:
    """The picture as models see it, its file's mode, and what was done to it."""
    with _opened(path, inside) as image, _damage(path):
        deep = any(";16" in str(tile) for tile in getattr(image, "tile", ())) and not image.mode.startswith("I")
        mode = f"{image.mode};16" if deep else image.mode
        done = [Conversion.UPRIGHT] if image.getexif().get(ORIENTATION, 1) in UPRIGHT else []
        done += [Conversion.CHANNEL_DEPTH] if deep else []
        done += [Conversion.FIRST_FRAME] if getattr(image, "is_animated", False) else []
        image.load()
        shown, how = _to_rgb(path, ImageOps.exif_transpose(image))
        return shown, mode, tuple(done + how)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What Pillow raises from within is the file's fault."""
    try:
        yield
    except BROKEN as error:
        raise UserError(
            f"{path}: the picture is damaged ({str(error) or type(error).__name__}); replace the file, or save it again"
        ) from error


@contextmanager
def _opened(path: Path, inside: Path | None) -> Iterator[Image.Image]:
    try:
        there, size = path.is_file(), path.stat().st_size if path.is_file() else 0
    except OSError as error:  # a name that no file can have
        raise UserError(f"{path}: not a path that can be opened ({error.strerror}); fix it") from error
    if not there:
        raise UserError(f"{path}: there is no such picture; fix the path or add the file")
    if inside is not None and not path.resolve().is_relative_to(inside.resolve()):
        raise UserError(f"{path}: the link leads out of the folder {inside}; copy the picture into the folder")
    if size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes); replace it")
    if size > MAX_BYTES:
        raise UserError(f"{path}: {size} bytes are more than {MAX_BYTES}; scale the picture down")
    try:
        image = Image.open(path, formats=tuple(FORMATS))
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: {error}; the limit is {MAX_PIXELS} pixels, scale the picture down") from error
    except (UnidentifiedImageError, *BROKEN) as error:
        kinds = ", ".join(FORMATS)
        raise UserError(f"{path}: not a picture that can be read ({kinds}); convert or replace it") from error
    with image:
        _check_header(path, image)
        yield image


def _check_header(path: Path, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise UserError(f"{path}: {size} pixels are more than {MAX_PIXELS}; scale the picture down")
    suffixes = FORMATS["JPEG" if image.format == "MPO" else str(image.format)]  # phones put several JPEGs in one file
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: the file holds a {image.format} picture; rename it to {suffixes[0]}")


def _to_rgb(path: Path, image: Image.Image) -> tuple[Image.Image, list[Conversion]]:
    """8-bit RGB. Pillow's own conversion of 16 bits and of floats would clip at 255."""
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float64)
        return _scaled(path, values, most=65535, wanted="16-bit values"), [Conversion.DEPTH]
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        return _scaled(path, values, most=1, wanted="floats from 0 to 1"), [Conversion.FLOAT]
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"), [Conversion.WHITE]
    if image.mode not in ("RGB", "CMYK", "L", "1", "P", "YCbCr"):
        raise UserError(f"{path}: pictures of mode {image.mode} are not taken; save it as RGB")
    how = {"RGB": [], "CMYK": [Conversion.INK]}.get(image.mode, [Conversion.COLOURS])
    return image.convert("RGB"), how


def _scaled(path: Path, values: NDArray[np.float64], *, most: float, wanted: str) -> Image.Image:
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > most:
        found = f"{values.min():g} to {values.max():g}"
        raise UserError(f"{path}: the picture's values go from {found}, {wanted} are taken; save it with 8 or 16 bits")
    return Image.fromarray((values * (255 / most)).round().astype(np.uint8)).convert("RGB")
