"""Images from untrusted files: opened as RGB, or refused with a cure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import image
from tests.helpers.images import spoil
from vlmbench.data.images import image_facts, image_size, open_image
from vlmbench.types import UserError


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "the image does not exist"),
        ("empty", "0 bytes"),
        ("cut short", "damaged"),
        ("text", "not a readable image"),
        ("huge", "900000000 pixels"),
        ("a folder", "the image does not exist"),
        ("svg", "not a readable image"),
    ],
)
def test_a_bad_image_is_named_with_its_cure(tmp_path: Path, how: str, message: str) -> None:
    path = tmp_path / "a.png"
    spoil(path, how)

    with pytest.raises(UserError, match=message) as raised:
        open_image(path)

    assert str(path) in str(raised.value)


def test_a_photo_with_the_suffix_of_another_format_is_read(tmp_path: Path) -> None:
    spoil(tmp_path / "a.png", "JPEG named png")
    assert open_image(tmp_path / "a.png").mode == "RGB"

    image(0).save(tmp_path / "a.dat", "PNG")
    with pytest.raises(UserError, match=r"holds a PNG image; rename it to \.png"):
        open_image(tmp_path / "a.dat")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    image(0).save(tmp_path / "secret.png")
    inside = tmp_path / "data"
    inside.mkdir()
    (inside / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="leads out of the folder"):
        open_image(inside / "a.png", inside=inside)


def test_a_size_is_read_from_the_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    spoil(path, "cut short")
    assert image_size(path) == (64, 64)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 100, 255]


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_a_palette_with_a_transparent_colour_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=1)
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (20, 30)


def test_facts_name_size_and_content(tmp_path: Path) -> None:
    image(0).save(tmp_path / "a.png")
    facts = image_facts(tmp_path / "a.png")
    assert (facts.width, facts.height, facts.thumbnail.shape) == (64, 56, (64, 64))

    image(0).save(tmp_path / "b.png", compress_level=1)
    saved_again = image_facts(tmp_path / "b.png")

    assert saved_again.sha256 != facts.sha256
    assert saved_again.phash == facts.phash
