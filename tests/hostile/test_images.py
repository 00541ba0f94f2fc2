"""Hostile image files: refused with a message or harmless, fast, and never outside their folder.

To add one, add an entry to IMAGES: a function that writes the file into an empty folder and returns
its path, and words of the error. None: the image is valid. "": both results are right, because they
depend on Pillow's version.
"""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vlmbench.data.images import MAX_BYTES, image_facts, image_size, open_image
from vlmbench.data.manifest import open_manifest
from vlmbench.data.photos.pairs import PairsConfig
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.types import UserError

MAX_SECONDS = 10
Make = Callable[[Path], Path]


def plain(size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def packed(kind: str, **options: object) -> bytes:
    target = io.BytesIO()
    plain().save(target, kind, **options)
    return target.getvalue()


def written(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(
    width: int,
    height: int,
    *chunks: bytes,
    depth: int = 8,
    colour: int = 2,
    data: bytes = b"\0" * 400,
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = (
        chunk(b"IHDR", header)
        + b"".join(chunks)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(*entries: tuple[int, int, int, int], next_ifd: int = 0) -> bytes:
    """Return a little-endian TIFF with a directory at byte 8 of (tag, type, count, value)."""
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        struct.pack("<2sHI", b"II", 42, 8)
        + struct.pack("<H", len(entries))
        + rows
        + struct.pack("<I", next_ifd)
    )


def bmp(
    width: int, height: int, *, bits: int = 24, offset: int = 54, compression: int = 0
) -> bytes:
    head = struct.pack("<2sIHHI", b"BM", 100, 0, 0, offset)
    return (
        head
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
        + b"\0" * 60
    )


def webp(width: int, height: int) -> bytes:
    """Return an extended header with a canvas of that size and no image data."""
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg(width: int, height: int) -> bytes:
    """Return a valid JPEG with another size in its header."""
    content = bytearray(packed("JPEG"))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def flooded(kind: bytes, head: bytes) -> bytes:
    """Return a chunk of a few kilobytes that unpacks to 200 MB."""
    squeezed = zlib.compressobj(9)
    body = b"".join(squeezed.compress(b"\0" * 1_000_000) for _ in range(200)) + squeezed.flush()
    return chunk(kind, head + body)


def frames(kind: str, number: int = 50) -> bytes:
    target = io.BytesIO()
    images = [plain().rotate(90 * index) for index in range(number)]
    images[0].save(target, kind, save_all=True, append_images=images[1:])
    return target.getvalue()


def linked(to: str) -> Make:
    def make(folder: Path) -> Path:
        path = folder / "link.png"
        path.symlink_to(to)
        return path

    return make


def link_out(folder: Path) -> Path:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(packed("PNG"))
    (folder / "link.png").symlink_to(outside / "secret.png")
    return folder / "link.png"


def folder_link_out(folder: Path) -> Path:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(packed("PNG"))
    (folder / "img").symlink_to(outside)
    return folder / "img" / "secret.png"


def loop(folder: Path) -> Path:
    (folder / "a.png").symlink_to(folder / "b.png")
    (folder / "b.png").symlink_to(folder / "a.png")
    return folder / "a.png"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def directory(folder: Path) -> Path:
    (folder / "folder.png").mkdir()
    return folder / "folder.png"


def endless(folder: Path) -> Path:
    """Write an image followed by more zeros than the limit: a sparse file."""
    path = folder / "endless.png"
    path.write_bytes(packed("PNG"))
    os.truncate(path, MAX_BYTES + 1)
    return path


def odd_exif(content: bytes) -> bytes:
    return packed("JPEG", exif=b"Exif\0\0" + content)


def many_texts() -> bytes:
    info = PngInfo()
    for index in range(2000):
        info.add_text(f"key{index}", "x" * 500, zip=True)
    return packed("PNG", pnginfo=info)


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    b"(%pipe%touch owned) (w) file\n%%EOF\n"
)
SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">'
    b'<image href="file:///etc/passwd"/></svg>'
)
DAMAGED, UNREADABLE, LARGE = "is damaged", "not a readable image", "pixels"

IMAGES: dict[str, tuple[Make, str | None]] = {
    "png of a billion pixels": (written("a.png", png(40_000, 40_000)), LARGE),
    "png of the largest size": (written("a.png", png(2**31 - 1, 2**31 - 1)), LARGE),
    "png just over the limit": (written("a.png", png(10_001, 11_000)), LARGE),
    "png just under Pillow's limit": (written("a.png", png(17_000, 10_000)), LARGE),
    "png of no width": (written("a.png", png(0, 10)), UNREADABLE),
    "png that ends in its data": (written("a.png", packed("PNG")[:-40]), DAMAGED),
    "png that ends in its header": (written("a.png", packed("PNG")[:20]), UNREADABLE),
    "png whose data is too short": (written("a.png", png(1000, 1000)), DAMAGED),
    "png whose data is no zlib": (
        written("a.png", png(9, 9)[:41] + chunk(b"IDAT", b"\xff" * 50)),
        DAMAGED,
    ),
    "png with 200 MB of colour profile": (
        written("a.png", png(9, 9, flooded(b"iCCP", b"x\0\0"))),
        "",
    ),
    "png with 200 MB of text": (
        written("a.png", png(9, 9, flooded(b"zTXt", b"x\0\0"))),
        UNREADABLE,
    ),
    "png with 200 MB of wide text": (
        written("a.png", png(9, 9, flooded(b"iTXt", b"x\0\1\0\0\0"))),
        UNREADABLE,
    ),
    "png with two thousand texts": (written("a.png", many_texts()), None),
    "png with a chunk of 4 GB": (
        written("a.png", png(9, 9)[:33] + b"\xff\xff\xff\xffIDAT"),
        DAMAGED,
    ),
    "png with an odd depth": (written("a.png", png(9, 9, depth=7)), UNREADABLE),
    "png with an odd colour": (written("a.png", png(9, 9, colour=5)), UNREADABLE),
    "png that is animated": (written("a.png", frames("PNG")), None),
    "jpeg of four billion pixels": (written("a.jpg", jpeg(65_000, 65_000)), LARGE),
    "jpeg larger than its data": (written("a.jpg", jpeg(500, 500)), None),
    "jpeg of no height": (written("a.jpg", jpeg(10, 0)), UNREADABLE),
    "jpeg that ends in its data": (written("a.jpg", packed("JPEG")[:-60]), DAMAGED),
    "jpeg of its first bytes": (written("a.jpg", b"\xff\xd8\xff\xe0"), UNREADABLE),
    "jpeg with an endless segment": (
        written("a.jpg", b"\xff\xd8\xff\xe0\xff\xff" + b"\0" * 100),
        UNREADABLE,
    ),
    "jpeg with broken exif": (written("a.jpg", odd_exif(b"II*\0\xff\xff\xff\xff")), None),
    "jpeg with exif of another order": (written("a.jpg", odd_exif(b"MM\x00\xff\0\0\0\x08")), None),
    "jpeg with exif that points to itself": (
        written(
            "a.jpg", odd_exif(b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0")
        ),
        None,
    ),
    "jpeg with an orientation of 99": (
        written(
            "a.jpg", odd_exif(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0")
        ),
        None,
    ),
    "webp of a huge canvas": (written("a.webp", webp(16_000, 16_000)), ""),
    "webp of nothing": (written("a.webp", webp(10, 10)), ""),
    "webp cut short": (written("a.webp", packed("WEBP")[:40]), ""),
    "webp that is animated": (written("a.webp", frames("WEBP", 5)), None),
    "bmp of a billion pixels": (written("a.bmp", bmp(40_000, 40_000)), LARGE),
    "bmp of negative size": (written("a.bmp", bmp(-5, -5)), ""),
    "bmp whose data lies elsewhere": (written("a.bmp", bmp(9, 9, offset=2**31)), DAMAGED),
    "bmp of odd bits": (written("a.bmp", bmp(9, 9, bits=13)), UNREADABLE),
    "bmp of odd compression": (written("a.bmp", bmp(9, 9, compression=77)), UNREADABLE),
    "bmp of run lengths": (written("a.bmp", bmp(9, 9, bits=8, compression=1)), ""),
    "tiff of a billion pixels": (
        written("a.tif", tiff((256, 4, 1, 40_000), (257, 4, 1, 40_000), (262, 3, 1, 1))),
        "",
    ),
    "tiff of four billion strips": (
        written("a.tif", tiff((256, 4, 1, 9), (257, 4, 1, 9), (273, 4, 2**32 - 1, 8))),
        "",
    ),
    "tiff whose directory is itself": (written("a.tif", tiff((256, 4, 1, 9), next_ifd=8)), ""),
    "tiff of many directories": (written("a.tif", frames("TIFF")), None),
    "tiff of no directory": (written("a.tif", b"II*\0\xff\xff\xff\xff"), UNREADABLE),
    "tiff of another order in its data": (written("a.tif", b"MM*\0\0\0\0\x08\xff\xff"), UNREADABLE),
    "tiff with a size of text": (
        written("a.tif", tiff((256, 2, 4, 0x41414141), (257, 4, 1, 9))),
        UNREADABLE,
    ),
    "gif": (written("a.png", frames("GIF", 3)), UNREADABLE),
    "gif of a huge canvas": (written("a.gif", b"GIF89a\xff\xff\xff\xff\0\0\0;"), UNREADABLE),
    "ico": (written("a.png", packed("ICO")), UNREADABLE),
    "svg": (written("a.svg", SVG), UNREADABLE),
    "svg named png": (written("a.png", SVG), UNREADABLE),
    "postscript": (written("a.eps", POSTSCRIPT), UNREADABLE),
    "postscript named png": (written("a.png", POSTSCRIPT), UNREADABLE),
    "pdf named png": (
        written("a.png", b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript>>>>"),
        UNREADABLE,
    ),
    "html named png": (written("a.png", b"<html><script>alert(1)</script>"), UNREADABLE),
    "zip named png": (written("a.png", b"PK\x03\x04" + b"\0" * 100), UNREADABLE),
    "pickle named png": (written("a.png", b"cos\nsystem\n(S'touch owned'\ntR."), UNREADABLE),
    "png named jpg": (written("a.jpg", packed("PNG")), None),
    "jpeg named png": (written("a.png", packed("JPEG")), None),
    "png of no suffix": (written("a", packed("PNG")), "rename it"),
    "empty": (written("a.png", b""), "is empty"),
    "zeros": (written("a.png", b"\0" * 10_000), UNREADABLE),
    "larger than any image": (endless, "bytes, the limit is"),
    "link out of the folder": (link_out, "leads out of the folder"),
    "folder that is a link out": (folder_link_out, "leads out of the folder"),
    "link to the passwords": (linked("/etc/passwd"), "leads out of the folder"),
    "link to endless zeros": (linked("/dev/zero"), "the image does not exist"),
    "link to a terminal": (linked("/dev/tty"), "the image does not exist"),
    "link to standard input": (linked("/dev/stdin"), ""),
    "link to nothing": (linked("nowhere.png"), "the image does not exist"),
    "links in a circle": (loop, ""),
    "pipe": (pipe, "the image does not exist"),
    "folder": (directory, "the image does not exist"),
    "name that is too long": (
        lambda folder: folder / ("a" * 300 + ".png"),
        "the path cannot be opened",
    ),
}


def refusal(read: Callable[..., object], path: Path, folder: Path) -> str:
    """Return the message of a UserError, "" for a valid image. Any other error fails the test."""
    try:
        read(path, inside=folder)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", IMAGES)
def test_a_hostile_image_is_refused_or_harmless(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.chdir(folder)
    make, words = IMAGES[name]
    path = make(folder)
    before, started = sorted(tmp_path.rglob("*")), time.monotonic()

    refusals = [refusal(read, path, folder) for read in (image_facts, open_image)]
    size_refusal = refusal(image_size, path, folder)
    if size_refusal:  # a header alone may look valid
        refusals.append(size_refusal)

    assert time.monotonic() - started < MAX_SECONDS
    assert sorted(tmp_path.rglob("*")) == before
    if words is None:
        assert refusals[:2] == ["", ""]
    if words:
        for message in refusals:
            assert str(path) in message
            assert words in message


SEEDS = [
    (f"a{suffix}", packed(kind))
    for kind, suffix in (("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"))
]
SEEDS += [
    ("a.bmp", packed("BMP")),
    ("a.tif", packed("TIFF", compression="tiff_lzw")),
    ("a.jpg", odd_exif(b"II*\0\x08\0")),
]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=6)), max_size=5),
)
def test_a_changed_image_is_refused_or_valid(
    tmp_path: Path, seed: tuple[str, bytes], changes: list[tuple[int, bytes]]
) -> None:
    name, content = seed
    spoilt = bytearray(content)
    for offset, patch in changes:
        start = offset % len(spoilt)
        spoilt[start : start + len(patch)] = patch
    (tmp_path / name).write_bytes(spoilt)

    refusal(image_facts, tmp_path / name, tmp_path)


NAMES = {
    "markup": "<img src=x onerror=alert(1)>.png",
    "quotes": "\"'`$(touch owned).png",
    "escape": "\x1b[31mred.png",
    "two lines": "a\nb.png",
    "direction": "a\u202egnp.png",
    "interpolation": "${oc.env:HOME}.png",
    "option": "--help.png",
    "bytes that are no text": b"\xff\xfe.png",
    "long": "a" * 240 + ".png",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_in_a_folder_of_photos_is_refused_or_text(tmp_path: Path, name: str) -> None:
    photos, file = tmp_path / "photos", NAMES[name]
    for label in ("good", "bad"):
        (photos / label).mkdir(parents=True)
        for number in range(8):
            rng = np.random.default_rng([number, len(label)])
            values = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(values).save(photos / label / f"{label}{number}.png")
    odd = Path(os.fsdecode(file)) if isinstance(file, bytes) else Path(file)
    (photos / "bad" / odd).write_bytes(packed("PNG"))

    message = ""
    config = FolderConfig(path=str(photos), pairs=PairsConfig(lots=3))
    try:
        open_manifest(config.prepare(tmp_path / "data"))
    except UserError as error:
        message = str(error)

    assert message == "" or str(tmp_path) in message
    assert not list(tmp_path.rglob("owned"))
