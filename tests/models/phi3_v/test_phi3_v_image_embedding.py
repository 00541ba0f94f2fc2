"""Images become tokens: tiles, separators and the whole view, from CLIP's hidden states."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 1), (2, 3), (4, 4)])
@torch.no_grad()
def test_an_images_tokens_are_tiles_then_separator_then_whole_view(make_model, make_images, grid):
    model, (rows, columns) = make_model(), grid
    embedding = model.model.vision_embed_tokens
    images = make_images(grid)
    features = embedding.encode(images["pixel_values"][0])  # (1 + tiles, 16 patches, 16 channels)
    sub, separator = embedding.sub_GN.flatten(), embedding.glb_GN.flatten()

    def patch(tile: int, row: int, column: int) -> torch.Tensor:
        return features[tile, row * 4 + column]

    def block(tile_at, row: int, column: int) -> torch.Tensor:
        corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
        positions = [(2 * row + down, 2 * column + right) for down, right in corners]
        return torch.cat([patch(tile_at(y // 4, x // 4), y % 4, x % 4) for y, x in positions])

    expected = []
    for row in range(2 * rows):
        expected += [
            block(lambda y, x: 1 + y * columns + x, row, column) for column in range(2 * columns)
        ]
        expected.append(sub)
    expected.append(separator)
    for row in range(2):
        expected += [block(lambda y, x: 0, row, column) for column in range(2)] + [sub]
    tokens = embedding.img_projection(torch.stack(expected))

    (got,) = model.get_image_features(**images)
    assert got.shape == ((rows * columns + 1) * 4 + 1 + (rows + 1) * 2, 32)
    torch.testing.assert_close(got, tokens)


@pytest.mark.parametrize("layer", [-2, -1, 0, 1, 3])
@torch.no_grad()
def test_features_are_clips_hidden_state_of_the_layer(make_model, make_images, layer):
    model = make_model(img_processor={"layer_idx": layer})
    crops = make_images((1, 2))["pixel_values"][0]
    tower = model.model.vision_embed_tokens.img_processor["vision_model"]
    expected = tower(crops, output_hidden_states=True).hidden_states[layer][:, 1:]
    torch.testing.assert_close(model.model.vision_embed_tokens.encode(crops), expected)


@torch.no_grad()
def test_later_layers_do_not_run(make_model, make_images):
    model = make_model()
    tower = model.model.vision_embed_tokens.img_processor["vision_model"]
    calls = []
    for index, layer in enumerate(tower.encoder.layers):
        layer.register_forward_hook(lambda *_, index=index: calls.append(index))
    model.get_image_features(**make_images((1, 1), (1, 1)))
    assert calls == [0, 1]


@torch.no_grad()
def test_empty_crops_are_not_encoded(make_model, make_images):
    model, images = make_model(), make_images((1, 1), (1, 3), (2, 1))
    expected = model.get_image_features(**images)
    for image, used in zip(images["pixel_values"], (2, 4, 3), strict=True):
        image[used:] = float("nan")
    for got, want in zip(model.get_image_features(**images), expected, strict=True):
        assert torch.equal(got, want)
