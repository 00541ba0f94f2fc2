"""Every image mode becomes 8-bit RGB by a documented rule, or is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmbench.data.image_modes import Conversion
from vlmbench.data.images import (
    image_facts,
    image_path_error,
    open_image,
    open_mask,
    turn_upright,
)
from vlmbench.types import UserError


def saved(path: Path, mode: str) -> Path:
    """Save a 4 x 3 image of one value in a mode and return its path."""
    values = {
        "I;16": lambda: Image.fromarray(np.full((3, 4), 257 * 51, np.uint16)),
        "F": lambda: Image.fromarray(np.full((3, 4), 0.2, np.float32)),
        "1": lambda: Image.new("1", (4, 3), 1),
        "L": lambda: Image.new("L", (4, 3), 51),
        "LA": lambda: Image.new("LA", (4, 3), (51, 255)),
        "P": lambda: Image.new("RGB", (4, 3), (51, 51, 51)).quantize(4),
        "RGBA": lambda: Image.new("RGBA", (4, 3), (51, 51, 51, 255)),
        "CMYK": lambda: Image.new("CMYK", (4, 3), (204, 204, 204, 0)),
        "RGB": lambda: Image.new("RGB", (4, 3), (51, 51, 51)),
    }
    values[mode]().save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "suffix", "level", "conversions"),
    [
        ("RGB", ".png", 51, ()),
        ("I;16", ".png", 51, (Conversion.DEPTH,)),
        ("I;16", ".tif", 51, (Conversion.DEPTH,)),
        ("F", ".tif", 51, (Conversion.FLOAT,)),
        ("1", ".png", 255, (Conversion.COLOURS,)),
        ("L", ".png", 51, (Conversion.COLOURS,)),
        ("LA", ".png", 51, (Conversion.WHITE,)),
        ("P", ".png", 51, (Conversion.COLOURS,)),
        ("RGBA", ".png", 51, (Conversion.WHITE,)),
        ("CMYK", ".tif", 51, (Conversion.INK,)),
    ],
)
def test_each_mode_is_converted_by_its_rule(
    tmp_path: Path, mode: str, suffix: str, level: int, conversions: tuple[Conversion, ...]
) -> None:
    path = saved(tmp_path / f"a{suffix}", mode)

    facts = image_facts(path)

    assert (facts.mode, facts.conversions, facts.width, facts.height) == (mode, conversions, 4, 3)
    assert open_image(path).getpixel((0, 0)) == (level, level, level)


def test_a_photo_with_an_orientation_has_its_upright_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)

    facts = image_facts(tmp_path / "a.jpg")

    assert facts.conversions == (Conversion.UPRIGHT,)
    assert (facts.width, facts.height) == (20, 30)


@pytest.mark.parametrize("orientation", range(10))
def test_an_array_of_stored_pixels_is_turned_as_the_image_is(
    tmp_path: Path, orientation: int
) -> None:
    stored = np.array([[1, 0, 0], [1, 1, 0]], np.bool_)  # different in all eight orientations
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored.astype(np.uint8) * 255).save(tmp_path / "a.png", exif=exif)

    shown = np.asarray(open_image(tmp_path / "a.png"))[..., 0] > 0

    assert turn_upright(stored, tmp_path / "a.png").tolist() == shown.tolist()


def test_broken_exif_is_no_traceback(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(
        tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 9
    )
    try:
        assert open_image(tmp_path / "a.jpg").size == (30, 20)
    except UserError as error:
        assert "a.jpg" in str(error)  # noqa: PT017 - an image or a UserError, no other error


def test_only_the_first_frame_of_several_is_shown(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])

    assert image_facts(tmp_path / "a.tif").conversions == (Conversion.FIRST_FRAME,)
    assert open_image(tmp_path / "a.tif").getpixel((0, 0)) == (255, 0, 0)


def test_a_phone_s_jpeg_of_several_images_is_a_jpeg(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])

    assert open_image(tmp_path / "a.jpg").size == (16, 16)


def test_16_bits_a_channel_are_a_conversion(tmp_path: Path) -> None:
    imwrite = pytest.importorskip("tifffile").imwrite  # Pillow does not write it
    imwrite(tmp_path / "a.tif", np.full((3, 4, 3), 257 * 51, np.uint16), photometric="rgb")

    facts = image_facts(tmp_path / "a.tif")

    assert (facts.mode, facts.conversions) == ("RGB;16", (Conversion.CHANNEL_DEPTH,))
    assert open_image(tmp_path / "a.tif").getpixel((0, 0)) == (51, 51, 51)


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.5), (0, 200), (0, np.nan)])
def test_floats_beyond_0_to_1_are_refused_rather_than_clipped(
    tmp_path: Path, low: float, high: float
) -> None:
    Image.fromarray(np.array([[low, high]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(
        UserError, match=r"a.tif: the image has values from .*, but floats from 0 to 1 are needed"
    ):
        open_image(tmp_path / "a.tif")


def test_32_bit_values_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="0 to 70000, but 16-bit values are needed"):
        open_image(tmp_path / "a.tif")


def test_lab_is_refused_by_name(tmp_path: Path) -> None:
    Image.new("LAB", (4, 3)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="mode LAB is not supported; save it as RGB"):
        open_image(tmp_path / "a.tif")


def test_pillow_s_own_limit_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"a.png: Image size \(1600 pixels\)"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "I;16", "1"])
def test_a_mask_marks_pixels_that_are_not_black(tmp_path: Path, mode: str) -> None:
    values = np.zeros((3, 4), np.uint16)
    values[1, 2] = 1  # VisA numbers its defects from 1
    grey = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        grey.putpalette([0, 0, 0, 1, 1, 1])
    image = {
        "I;16": lambda: Image.fromarray(values),
        "RGB": lambda: Image.merge("RGB", (Image.new("L", (4, 3)), Image.new("L", (4, 3)), grey)),
        "1": lambda: Image.fromarray(values > 0),
    }.get(mode, lambda: grey)()
    image.save(tmp_path / "m.png")

    assert open_mask(tmp_path / "m.png").tolist() == (values > 0).tolist()


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../a.png", "a/../../b.png", "a\\b.png", "a\n.png", "\x1b[31m.png"]
)
def test_a_path_that_leaves_the_folder_is_an_error(name: str) -> None:
    assert image_path_error(name) is not None


def test_a_path_within_the_folder_is_valid() -> None:
    assert image_path_error("photos/部品 1/a..b.png") is None
