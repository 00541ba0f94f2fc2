"""Pictures that nobody has vouched for: refused in a sentence, or harmless; never slow, never outside their folder.

To add one: a function in PICTURES that writes it into an empty folder and gives its path, and the words that refuse it
(None: it is a picture after all; "": either will do, which depends on Pillow's version).
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

from vlmbench.data.manifest import open_manifest
from vlmbench.data.photos.pairs import PairsConfig
from vlmbench.data.pictures import MAX_BYTES, open_picture, picture_facts, picture_size
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.types import UserError

PATIENCE_S = 10
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
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2, data: bytes = b"\0" * 400) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(*entries: tuple[int, int, int, int], next_ifd: int = 0) -> bytes:
    """Little-endian, its first directory at 8: (tag, type, count, value)."""
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(entries)) + rows + struct.pack("<I", next_ifd)


def bmp(width: int, height: int, *, bits: int = 24, offset: int = 54, compression: int = 0) -> bytes:
    head = struct.pack("<2sIHHI", b"BM", 100, 0, 0, offset)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0) + b"\0" * 60


def webp(width: int, height: int) -> bytes:
    """An extended header with a canvas of that size, and nothing drawn on it."""
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg(width: int, height: int) -> bytes:
    """A real one whose header tells another size."""
    content = bytearray(packed("JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def flooded(kind: bytes, head: bytes) -> bytes:
    """A chunk of a few kilobytes that is 200 MB when it is unpacked."""
    squeezed = zlib.compressobj(9)
    body = b"".join(squeezed.compress(b"\0" * 1_000_000) for _ in range(200)) + squeezed.flush()
    return chunk(kind, head + body)


def frames(kind: str, number: int = 50) -> bytes:
    target = io.BytesIO()
    pictures = [plain().rotate(90 * index) for index in range(number)]
    pictures[0].save(target, kind, save_all=True, append_images=pictures[1:])
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
    """A picture, then more zeros than any disk has: a file with holes."""
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


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch owned) (w) file\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>'
DAMAGED, UNREADABLE, LARGE = "is damaged", "not a picture that can be read", "pixels"

PICTURES: dict[str, tuple[Make, str | None]] = {
    "png of a billion pixels": (written("a.png", png(40_000, 40_000)), LARGE),
    "png of the largest size": (written("a.png", png(2**31 - 1, 2**31 - 1)), LARGE),
    "png just over the limit": (written("a.png", png(10_001, 10_000)), LARGE),
    "png just under Pillow's limit": (written("a.png", png(17_000, 10_000)), LARGE),
    "png of no width": (written("a.png", png(0, 10)), UNREADABLE),
    "png that ends in its data": (written("a.png", packed("PNG")[:-40]), DAMAGED),
    "png that ends in its header": (written("a.png", packed("PNG")[:20]), UNREADABLE),
    "png whose data is too short": (written("a.png", png(1000, 1000)), DAMAGED),
    "png whose data is no zlib": (written("a.png", png(9, 9)[:41] + chunk(b"IDAT", b"\xff" * 50)), DAMAGED),
    "png with 200 MB of colour profile": (written("a.png", png(9, 9, flooded(b"iCCP", b"x\0\0"))), ""),
    "png with 200 MB of text": (written("a.png", png(9, 9, flooded(b"zTXt", b"x\0\0"))), UNREADABLE),
    "png with 200 MB of wide text": (written("a.png", png(9, 9, flooded(b"iTXt", b"x\0\1\0\0\0"))), UNREADABLE),
    "png with two thousand texts": (written("a.png", many_texts()), None),
    "png with a chunk of 4 GB": (written("a.png", png(9, 9)[:33] + b"\xff\xff\xff\xffIDAT"), DAMAGED),
    "png with an odd depth": (written("a.png", png(9, 9, depth=7)), UNREADABLE),
    "png with an odd colour": (written("a.png", png(9, 9, colour=5)), UNREADABLE),
    "png that is animated": (written("a.png", frames("PNG")), None),
    "jpeg of four billion pixels": (written("a.jpg", jpeg(65_000, 65_000)), LARGE),
    "jpeg larger than its data": (written("a.jpg", jpeg(500, 500)), None),
    "jpeg of no height": (written("a.jpg", jpeg(10, 0)), UNREADABLE),
    "jpeg that ends in its data": (written("a.jpg", packed("JPEG")[:-60]), DAMAGED),
    "jpeg of its first bytes": (written("a.jpg", b"\xff\xd8\xff\xe0"), UNREADABLE),
    "jpeg with an endless segment": (written("a.jpg", b"\xff\xd8\xff\xe0\xff\xff" + b"\0" * 100), UNREADABLE),
    "jpeg with broken exif": (written("a.jpg", odd_exif(b"II*\0\xff\xff\xff\xff")), None),
    "jpeg with exif of another order": (written("a.jpg", odd_exif(b"MM\x00\xff\0\0\0\x08")), None),
    "jpeg with exif that points to itself": (
        written("a.jpg", odd_exif(b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0")),
        None,
    ),
    "jpeg with an orientation of 99": (
        written("a.jpg", odd_exif(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0")),
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
    "tiff with a size of text": (written("a.tif", tiff((256, 2, 4, 0x41414141), (257, 4, 1, 9))), UNREADABLE),
    "gif": (written("a.png", frames("GIF", 3)), UNREADABLE),
    "gif of a huge canvas": (written("a.gif", b"GIF89a\xff\xff\xff\xff\0\0\0;"), UNREADABLE),
    "ico": (written("a.png", packed("ICO")), UNREADABLE),
    "svg": (written("a.svg", SVG), UNREADABLE),
    "svg named png": (written("a.png", SVG), UNREADABLE),
    "postscript": (written("a.eps", POSTSCRIPT), UNREADABLE),
    "postscript named png": (written("a.png", POSTSCRIPT), UNREADABLE),
    "pdf named png": (written("a.png", b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript>>>>"), UNREADABLE),
    "html named png": (written("a.png", b"<html><script>alert(1)</script>"), UNREADABLE),
    "zip named png": (written("a.png", b"PK\x03\x04" + b"\0" * 100), UNREADABLE),
    "pickle named png": (written("a.png", b"cos\nsystem\n(S'touch owned'\ntR."), UNREADABLE),
    "png named jpg": (written("a.jpg", packed("PNG")), "rename it"),
    "jpeg named png": (written("a.png", packed("JPEG")), "rename it"),
    "png of no suffix": (written("a", packed("PNG")), "rename it"),
    "empty": (written("a.png", b""), "is empty"),
    "zeros": (written("a.png", b"\0" * 10_000), UNREADABLE),
    "larger than any picture": (endless, "bytes are more than"),
    "link out of the folder": (link_out, "leads out of the folder"),
    "folder that is a link out": (folder_link_out, "leads out of the folder"),
    "link to the passwords": (linked("/etc/passwd"), "leads out of the folder"),
    "link to endless zeros": (linked("/dev/zero"), "there is no such picture"),
    "link to a terminal": (linked("/dev/tty"), "there is no such picture"),
    "link to standard input": (linked("/dev/stdin"), ""),
    "link to nothing": (linked("nowhere.png"), "there is no such picture"),
    "links in a circle": (loop, ""),
    "pipe": (pipe, "there is no such picture"),
    "folder": (directory, "there is no such picture"),
    "name that is too long": (lambda folder: folder / ("a" * 300 + ".png"), "not a path that can be opened"),
}


def refusal(read: Callable[..., object], path: Path, folder: Path) -> str:
    """What a reader says against a picture, "" where it takes it; any other error is the test's failure."""
    try:
        read(path, inside=folder)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", PICTURES)
def test_a_hostile_picture_is_refused_or_harmless(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.chdir(folder)
    make, words = PICTURES[name]
    path = make(folder)
    before, started = sorted(tmp_path.rglob("*")), time.monotonic()
    refusals = [refusal(read, path, folder) for read in (picture_facts, open_picture)]
    refusals += [said for said in [refusal(picture_size, path, folder)] if said]  # of a header alone, not all is seen
    assert time.monotonic() - started < PATIENCE_S
    assert sorted(tmp_path.rglob("*")) == before
    if words is None:
        assert refusals[:2] == ["", ""]
    for said in refusals if words else ():
        assert str(path) in said
        assert words in said


SEEDS = [(f"a{suffix}", packed(kind)) for kind, suffix in (("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"))]
SEEDS += [
    ("a.bmp", packed("BMP")),
    ("a.tif", packed("TIFF", compression="tiff_lzw")),
    ("a.jpg", odd_exif(b"II*\0\x08\0")),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=6)), max_size=5))
def test_a_changed_picture_is_refused_or_taken(
    tmp_path: Path, seed: tuple[str, bytes], changes: list[tuple[int, bytes]]
) -> None:
    name, content = seed
    spoilt = bytearray(content)
    for at, patch in changes:
        spoilt[at % len(spoilt) : at % len(spoilt) + len(patch)] = patch
    (tmp_path / name).write_bytes(spoilt)
    refusal(picture_facts, tmp_path / name, tmp_path)


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
            seen = np.random.default_rng([number, len(label)]).integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(seen).save(photos / label / f"{label}{number}.png")
    odd = Path(os.fsdecode(file)) if isinstance(file, bytes) else Path(file)
    (photos / "bad" / odd).write_bytes(packed("PNG"))
    said = ""
    try:
        manifest = FolderConfig(path=str(photos), pairs=PairsConfig(lots=3)).prepare(tmp_path / "data")
        open_manifest(manifest)
    except UserError as error:
        said = str(error)
    assert said == "" or str(tmp_path) in said
    assert not list(tmp_path.rglob("owned"))
