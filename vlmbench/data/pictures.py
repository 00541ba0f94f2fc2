"""Opening pictures that nobody has vouched for, and the facts that leak checks need of each."""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vlmbench.types import UserError

FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WEBP": (".webp",), "BMP": (".bmp",), "TIFF": (".tif", ".tiff")}
MOST_CONTENTS = 1_000_000  # files whose contents are remembered
MAX_PIXELS = 100_000_000
MAX_BYTES = 1_000_000_000  # of a file
# What Pillow's decoders raise on bytes that they did not expect.
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError),
    *(struct.error, zlib.error),
)
# Pillow warns of large pictures; MAX_PIXELS is an error instead.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
THUMBNAIL = 32  # side in pixels of the grey thumbnail that confirms a near-duplicate


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """What a leak check needs: `sha256` of the file, a 64-bit perceptual hash, a (32, 32) uint8 grey thumbnail."""

    sha256: str
    width: int
    height: int
    phash: int
    thumbnail: NDArray[np.uint8]


def open_picture(path: Path, *, inside: Path | None = None) -> Image.Image:
    """The picture in RGB, upright by its EXIF orientation, transparency over white, 16 bits scaled to 8.

    Raises UserError for a file that is missing, outside the folder `inside` (also by a symbolic link), empty, cut
    short, too large or of another kind than its name says.
    """
    with _opened(path, inside) as image:
        try:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
        except BROKEN as error:
            reason = str(error) or type(error).__name__
            raise UserError(f"{path}: the picture is damaged ({reason}); replace the file") from error


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


def picture_facts(path: Path, *, inside: Path | None = None) -> PictureFacts:
    """Read the file once for its hashes. Raises UserError as `open_picture` does."""
    image = open_picture(path, inside=inside).convert("L")
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return PictureFacts(
        sha256=file_sha256(path),
        width=image.width,
        height=image.height,
        phash=int(str(imagehash.phash(image)), 16),
        thumbnail=np.asarray(small, dtype=np.uint8),
    )


def file_sha256(path: Path) -> str:
    """Of a file's bytes, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    suffixes = FORMATS[str(image.format)]
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: the file holds a {image.format} picture; rename it to {suffixes[0]}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip at 255
        values = np.asarray(image, dtype=np.float64) / 257.0
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
