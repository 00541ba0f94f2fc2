from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from vlmbench.models.phi3_v import ImageError, Phi3VConfig, Phi3VImageProcessor
from vlmbench.models.phi3_v.image_processing_phi3_v import count_img_tokens, hd_size
from vlmbench.types import UserError

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
WHITE = (1 - MEAN) / STD


@pytest.mark.parametrize(
    ("size", "num_crops", "resized", "padded"),
    [
        # 2 x 2 tiles are 4; 3 columns would need ceil(3 / 1) = 3 rows, 9 tiles.
        ((400, 400), 4, (672, 672), (672, 672)),
        # ratio 3: 3 columns need 1 row; 4 columns need ceil(4 / 3) = 2 rows, 8 tiles. 1008 / 3 =
        # 336 high.
        ((900, 300), 4, (1008, 336), (1008, 336)),
        # ratio 2.8 on its side: 2 columns need 1 row, 3 need 2 rows. 672 / 2.8 = 240 of 336.
        ((250, 700), 4, (240, 672), (336, 672)),
        # ratio 12: 4 columns, 1 row. 1344 / 12 = 112.
        ((1200, 100), 4, (1344, 112), (1344, 336)),
        ((60, 800), 4, (100, 1344), (336, 1344)),
        # a small image is enlarged
        ((1, 1), 1, (336, 336), (336, 336)),
        # ratio 1.5: 4 columns need 3 rows, 12 tiles; 5 need 4, 20. 1344 / 1.5 = 896 of 1008.
        ((300, 200), 16, (1344, 896), (1344, 1008)),
        # ratio 1.5: 3 columns need 2 rows, 6 tiles. 1008 / 1.5 = 672.
        ((300, 200), 6, (1008, 672), (1008, 672)),
        # ratio 1.5 at 4: 2 columns need 2 rows, 4 tiles. 672 / 1.5 = 448 of 672.
        ((300, 200), 4, (672, 448), (672, 672)),
    ],
)
def test_an_image_gets_the_longest_grid_that_fits(size, num_crops, resized, padded):
    assert hd_size(*size, num_crops) == (*resized, *padded)


@pytest.mark.parametrize(
    ("size", "num_crops", "tokens"),
    # rows * columns tiles and one whole view of 144, one separator, 12 row ends for each row of
    # tiles and the whole.
    [
        ((400, 400), 4, 5 * 144 + 1 + 3 * 12),  # 757
        ((900, 300), 4, 4 * 144 + 1 + 2 * 12),  # 601
        ((250, 700), 4, 3 * 144 + 1 + 3 * 12),  # 469
        ((1200, 100), 4, 5 * 144 + 1 + 2 * 12),  # 745
        ((60, 800), 4, 5 * 144 + 1 + 5 * 12),  # 781
        ((400, 400), 16, 17 * 144 + 1 + 5 * 12),  # 2509
        ((900, 300), 16, 1909),
        ((400, 400), 1, 2 * 144 + 1 + 2 * 12),  # 313
    ],
)
def test_the_size_gives_the_number_of_tokens(size, num_crops, tokens):
    width, height = size
    assert Phi3VImageProcessor().get_num_img_tokens(height, width, num_crops) == tokens


def test_the_number_of_tokens_equals_the_processors(make_image):
    processor = Phi3VImageProcessor(num_crops=6, tile_size=56, num_img_tokens=4)
    images = [make_image(width, 60) for width in (5, 30, 60, 61, 119, 120, 121, 200, 500)]
    expected = [processor.get_num_img_tokens(image.height, image.width) for image in images]
    assert processor(images)["num_img_tokens"].tolist() == expected


@pytest.mark.parametrize("num_crops", [1, 4, 6, 16])
def test_every_aspect_ratio_keeps_its_shape_and_its_number_of_tiles(num_crops):
    for width in range(1, 400, 7):
        for height in (1, 3, 50, 100, 399):
            if max(width, height) / min(width, height) > 336:
                continue
            new_width, new_height, padded_width, padded_height = hd_size(width, height, num_crops)
            assert padded_width % 336 == padded_height % 336 == 0
            assert padded_width * padded_height // 336**2 <= num_crops
            assert 0 <= padded_width - new_width < 336
            assert 0 <= padded_height - new_height < 336
            assert max(new_width, new_height) == max(padded_width, padded_height)
            exact = max(new_width, new_height) * min(width, height) / max(width, height)
            assert math.isclose(min(new_width, new_height), exact, abs_tol=1)
            assert hd_size(height, width, num_crops) == (
                new_height,
                new_width,
                padded_height,
                padded_width,
            )


def test_white_fills_both_edges_and_the_odd_row_goes_below():
    # 10 x 3 at one tile of 336: 336 x 100 (336 / 3.33 = 100.8), so 118 rows of white above and 118
    # below.
    black = Image.new("RGB", (10, 3))
    hd = np.asarray(Phi3VImageProcessor().hd_image(black))
    assert hd.shape == (336, 336, 3)
    assert (hd[:118] == 255).all()
    assert (hd[118:218] == 0).all()
    assert (hd[218:] == 255).all()
    # 100 x 3 at one tile of 56: 56 x 1 (56 / 33.3 = 1.68), so 55 rows of white: 27 above and 28
    # below.
    odd = np.asarray(Phi3VImageProcessor(tile_size=56).hd_image(Image.new("RGB", (100, 3))))
    assert np.flatnonzero((odd == 0).all(axis=(1, 2))).tolist() == [27]


def test_a_tall_image_is_the_transposed_wide_image(make_image):
    processor = Phi3VImageProcessor(num_crops=4)
    tall = make_image(70, 200)
    wide = tall.transpose(Image.Transpose.TRANSPOSE)
    expected = processor.hd_image(wide).transpose(Image.Transpose.TRANSPOSE)
    assert processor.hd_image(tall).tobytes() == expected.tobytes()


def test_tiles_come_row_by_row_after_the_whole_view_and_zeros_after_them(make_image):
    processor = Phi3VImageProcessor(num_crops=7, tile_size=56, num_img_tokens=4)
    image = make_image(168, 112)  # 3 columns, 2 rows: taken as it is
    out = processor(image)
    assert out["pixel_values"].shape == (1, 8, 3, 56, 56)
    assert out["image_sizes"].tolist() == [[112, 168]]
    normalised = ((np.asarray(image) / 255 - MEAN) / STD).transpose(2, 0, 1)
    crops = out["pixel_values"][0]
    for row in range(2):
        for column in range(3):
            tile = normalised[:, row * 56 : (row + 1) * 56, column * 56 : (column + 1) * 56]
            np.testing.assert_allclose(crops[1 + row * 3 + column], tile, atol=1e-6)
    assert (crops[7] == 0).all()
    assert (crops[0] != 0).all()


def test_the_whole_view_is_bicubic_without_antialiasing_or_clamping():
    # Columns of black and white, 4 pixels wide, shrunk to a half: taps a = -0.75 at -1.5, -0.5,
    # 0.5, 1.5 pixels.
    stripes = np.tile(np.repeat([0, 255], 4), 14).astype(np.uint8)  # 112 columns
    image = Image.fromarray(np.broadcast_to(stripes[None, :, None], (112, 112, 3)).copy())
    processor = Phi3VImageProcessor(num_crops=4, tile_size=56, num_img_tokens=4)
    whole = processor(image)["pixel_values"][0, 0, 0, 20]
    # Output x samples input 2x + 0.5 with weights (-0.09375, 0.59375, 0.59375, -0.09375). Columns
    # 4-7 are white: x = 2 sees columns 3, 4, 5, 6: black, white, white, white; 0.59375 + 0.59375 -
    # 0.09375 = 1.09375 > 1.
    black = -MEAN[0] / STD[0]
    overshoot = 1.09375 * WHITE[0] - 0.09375 * black
    assert whole[2] == pytest.approx(overshoot, abs=1e-5)
    assert whole[2] > WHITE[0] + 0.1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_mode_becomes_pils_rgb(make_image, mode):
    processor = Phi3VImageProcessor(num_crops=4, tile_size=56, num_img_tokens=4)
    image = make_image(60, 45, mode)
    expected = processor(image.convert("RGB"))["pixel_values"]
    np.testing.assert_array_equal(processor(image)["pixel_values"], expected)


def test_alpha_is_dropped_not_blended():
    processor = Phi3VImageProcessor(tile_size=56, num_img_tokens=4)
    invisible = Image.new("RGBA", (56, 56), (255, 0, 0, 0))
    assert processor.hd_image(invisible).getpixel((5, 5)) == (255, 0, 0)


def test_an_8_bit_array_gives_the_pixels_of_its_image(make_image):
    processor = Phi3VImageProcessor(num_crops=4, tile_size=56, num_img_tokens=4)
    image = make_image(60, 45)
    expected = processor(image)["pixel_values"]
    np.testing.assert_array_equal(processor(np.asarray(image))["pixel_values"], expected)
    np.testing.assert_array_equal(
        processor(torch.tensor(np.asarray(image)))["pixel_values"], expected
    )


def test_an_array_of_other_numbers_is_refused():
    with pytest.raises(ImageError, match=r"float32.*uint8"):
        Phi3VImageProcessor()(np.zeros((20, 20, 3), dtype=np.float32))


def test_an_image_that_is_too_narrow_is_refused_with_its_size():
    assert hd_size(1344, 1, 4) == (1344, 1, 1344, 336)
    with pytest.raises(ImageError, match=r"1345x1.*num_crops=4"):
        hd_size(1345, 1, 4)


def test_no_crops_are_refused():
    with pytest.raises(ImageError, match="num_crops must be at least 1, got 0"):
        hd_size(10, 10, 0)


def test_an_image_error_is_a_user_error_and_a_value_error():
    assert issubclass(ImageError, UserError)
    assert issubclass(ImageError, ValueError)


def test_a_call_overrides_the_processors_crops(make_image):
    processor = Phi3VImageProcessor(num_crops=4, tile_size=56, num_img_tokens=4)
    assert processor(make_image(56, 56), num_crops=1)["pixel_values"].shape == (1, 2, 3, 56, 56)
    assert processor(make_image(56, 56))["pixel_values"].shape == (1, 5, 3, 56, 56)


def test_return_tensors_gives_tensors(make_image):
    out = Phi3VImageProcessor()([make_image(50, 50), make_image(100, 20)], return_tensors="pt")
    assert out["pixel_values"].dtype is torch.float32
    assert out["image_sizes"].dtype is torch.int64
    assert out["image_sizes"].tolist() == [[336, 336], [336, 336]]


def test_count_of_the_smallest_tiles():
    # 2 x 3 tiles of 4 tokens and a whole view: 28, one separator, 2 row ends for each of 2 rows and
    # the whole: 6.
    assert count_img_tokens(112, 168, tile_size=56, num_img_tokens=4) == 28 + 1 + 6


@pytest.mark.parametrize("backend", [None, "pil", "torchvision"])
def test_every_backend_loads_the_same_class(tmp_path, backend):
    Phi3VImageProcessor(num_crops=5, auto_map={"AutoImageProcessor": "x.Y"}).save_pretrained(
        tmp_path
    )
    Phi3VConfig().save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(loaded) is Phi3VImageProcessor
    assert loaded.backend == "pil"
    assert loaded.num_crops == 5
    assert "auto_map" not in (tmp_path / "preprocessor_config.json").read_text()
