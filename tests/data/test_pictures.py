"""Pictures that nobody has vouched for."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture
from vlmbench.data.pictures import open_picture, picture_facts, picture_size
from vlmbench.types import UserError


def huge_png(path: Path, width: int, height: int) -> None:
    """A PNG of a few bytes whose header claims a huge size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def spoil(path: Path, how: str) -> None:
    picture(0, (64, 64)).save(path)
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif how == "text":
        path.write_text("not a picture")
    elif how == "huge":
        huge_png(path, 30_000, 30_000)
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "JPEG named png":
        picture(0).save(path, format="JPEG")
    elif how == "svg":
        path.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "there is no such picture"),
        ("empty", "0 bytes"),
        ("cut short", "damaged"),
        ("text", "not a picture"),
        ("huge", "900000000 pixels"),
        ("a folder", "there is no such picture"),
        ("JPEG named png", "holds a JPEG picture; rename it to .jpg"),
        ("svg", "not a picture"),
    ],
)
def test_a_bad_picture_is_named_with_its_cure(tmp_path: Path, how: str, message: str) -> None:
    path = tmp_path / "a.png"
    spoil(path, how)
    with pytest.raises(UserError, match=message) as raised:
        open_picture(path)
    assert str(path) in str(raised.value)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "secret.png")
    inside = tmp_path / "data"
    inside.mkdir()
    (inside / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="leads out of the folder"):
        open_picture(inside / "a.png", inside=inside)


def test_a_header_is_read_without_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    spoil(path, "cut short")
    assert picture_size(path) == (64, 64)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(open_picture(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 100, 255]


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_a_palette_with_a_transparent_colour_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=1)
    assert open_picture(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert open_picture(tmp_path / "a.jpg").size == (20, 30)


def test_facts_name_size_and_content(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    facts = picture_facts(tmp_path / "a.png")
    assert (facts.width, facts.height, facts.thumbnail.shape) == (64, 56, (32, 32))
    picture(0).save(tmp_path / "b.png", compress_level=1)
    other = picture_facts(tmp_path / "b.png")
    assert other.sha256 != facts.sha256
    assert other.phash == facts.phash
