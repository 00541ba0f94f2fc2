"""The views: the Recognition-Taguchi metric by hand, and views that change nothing."""

import math
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from vlmbench.data.views.files import FilesConfig
from vlmbench.data.views.raw import RawConfig
from vlmbench.data.views.rt import RecognitionTaguchi, RTConfig, sensitivity_and_error
from vlmbench.types import UserError


def grey(level, size=(12, 10)):
    return Image.new("L", size, level)


@pytest.fixture
def references(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    grey(80).save(paths[0])
    grey(120).convert("RGB").save(paths[1])
    return paths


def test_one_window_agrees_with_the_sums_by_hand():
    # m = 1..9, x = m except for the middle, 5 -> 14. L = sum(m^2) + 5 * 9 = 285 + 45 = 330,
    # r = 285, S_T = 285 - 25 + 196 = 456. Y1 = 330 / 285 = 22 / 19.
    # V_e = (456 - 330^2 / 285) / 8 = (456 - 7260 / 19) / 8 = (1404 / 19) / 8 = 351 / 38, and Y2 is
    # its root.
    pattern = np.arange(1.0, 10).reshape(3, 3)
    image = pattern.copy()
    image[1, 1] = 14

    y1, y2 = sensitivity_and_error(image, pattern, window=3)

    assert y1[1, 1] == pytest.approx(22 / 19)
    assert y2[1, 1] == pytest.approx(math.sqrt(351 / 38))


def test_a_brighter_copy_of_the_pattern_is_all_sensitivity_and_no_error():
    pattern = np.random.default_rng(0).uniform(50, 150, (20, 20))
    y1, y2 = sensitivity_and_error(1.5 * pattern, pattern, window=5)
    assert y1 == pytest.approx(np.full((20, 20), 1.5))
    assert y2 == pytest.approx(np.zeros((20, 20)), abs=1e-4)


def test_where_the_pattern_is_black_all_is_error():
    # 9 pixels of 4: S_T = 144, k - 1 = 8, so Y2 = sqrt(18).
    y1, y2 = sensitivity_and_error(np.full((6, 6), 4.0), np.zeros((6, 6)), window=3)
    assert (y1 == 0).all()
    assert y2 == pytest.approx(np.full((6, 6), math.sqrt(18)))


def test_the_channels_are_sensitivity_error_and_grey_on_fixed_scales():
    # A plain image of 150 on a plain pattern of 100: Y1 = 1.5, and 2 is 255, so 191.25; no error.
    view = RecognitionTaguchi(pattern=np.full((8, 8), 100.0), window=3)
    assert view(grey(150, (8, 8))).getpixel((4, 4)) == (191, 0, 150)


def test_a_stronger_defect_looks_stronger():
    view = RecognitionTaguchi(pattern=np.full((20, 20), 100.0), window=5)
    errors = []
    for level in (110, 130, 170):
        image = grey(100, (20, 20))
        image.putpixel((10, 10), level)
        errors.append(np.asarray(view(image))[..., 1].max())

    # One pixel of 25 is off by d: L / r = 1 + d / 2500, so V_e = (d^2 - d^2 / 25) / 24 = d^2 / 25
    # and Y2 = d / 5. 64 is shown as 255, so d = 10, 30, 70 give 7.97, 23.9, 55.8.
    assert errors == [8, 24, 56]


def test_the_pattern_is_the_mean_of_the_references_whatever_their_order(references):
    view = RTConfig(size=8).build(references)
    reordered = RTConfig(size=8).build(references[::-1])

    # (80 + 120) / 2 = 100, so an image of 100 has Y1 = 1, which is 127.5 and rounds to 128.
    assert view(grey(100)).getpixel((5, 5)) == (128, 0, 100)
    assert view(grey(90)).tobytes() == reordered(grey(90)).tobytes()


def test_the_processed_image_keeps_its_size(references):
    assert RTConfig(size=8).build(references)(grey(100, (31, 17))).size == (31, 17)


def test_the_fingerprint_depends_on_references_and_fields_but_not_on_order():
    a, b = (sha256(name).hexdigest() for name in (b"a", b"b"))
    assert RTConfig().fingerprint([a, b]) == RTConfig().fingerprint([b, a])
    different = [
        RTConfig().fingerprint([a]),
        RTConfig().fingerprint([a, b]),
        RTConfig(window=5).fingerprint([a]),
    ]
    assert len(set(different)) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 8}, "view.window must be odd, got 8; set view.window=9"),
        ({"window": 1}, "window"),
    ],
)
def test_an_even_or_tiny_window_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        RTConfig(**fields)


def test_no_references_is_an_error_that_says_what_to_do():
    with pytest.raises(UserError, match="view=raw"):
        RTConfig().build([])


@pytest.mark.parametrize("config", [RawConfig(), FilesConfig(name="mine")])
def test_raw_and_ready_processed_images_are_shown_as_they_are(config):
    image = grey(77)

    assert config.build([])(image) is image
