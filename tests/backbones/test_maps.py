"""A feature map shows each location of the image where it is, and nothing beside the image."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.backbones import build, lazy_image
from vlmbench.backbones.maps import NoFeaturesError, crop_map, pool_map, square_map
from vlmbench.types import LazyImage


def coordinates(rows: int, columns: int) -> torch.Tensor:
    """Return a map (rows, columns, 2) of the row and the column of each location."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([row, column], -1).float()


def test_patches_with_a_part_of_the_image_stay() -> None:
    grid = coordinates(4, 6)
    whole = crop_map(grid, canvas=(60, 40), box=(0, 0, 60, 40))
    assert torch.equal(whole, grid)

    part = crop_map(grid, canvas=(60, 40), box=(15, 10, 41, 20))
    assert part[..., 0].unique().tolist() == [1]
    assert part[..., 1].unique().tolist() == [1, 2, 3, 4]
    assert crop_map(grid, canvas=(60, 40), box=(0, 0, 1, 1)).shape == (1, 1, 2)


@pytest.mark.parametrize("num_extra", [0, 1])
def test_a_class_token_is_no_location(num_extra: int) -> None:
    patches = coordinates(3, 3).flatten(0, 1)
    states = torch.cat([torch.full((num_extra, 2), -1.0), patches])[None]
    assert torch.equal(square_map(states, "Some"), coordinates(3, 3))


@pytest.mark.parametrize(
    "states", [None, torch.zeros(1, 7, 2), torch.zeros(2, 9, 2), torch.zeros(9)]
)
def test_states_without_a_map_are_refused_by_the_family(states: torch.Tensor | None) -> None:
    with pytest.raises(NoFeaturesError, match="Some returns states of shape"):
        square_map(states, "Some")


def test_a_map_is_pooled_to_mean_and_maximum() -> None:
    feature_map = coordinates(2, 4).numpy()
    assert pool_map(feature_map).tolist() == [0.5, 1.5, 1.0, 3.0]


@pytest.mark.parametrize(("size", "rows", "columns"), [((90, 30), 1, 3), ((40, 40), 2, 2)])
def test_a_map_of_phi3_follows_its_tiles(
    shared_cache: Path, size: tuple[int, int], rows: int, columns: int
) -> None:
    backbone = build("phi3_tiny", shared_cache)
    (embedding,) = backbone.vision_modules()
    edge = embedding.edge

    whole = torch.full((1, edge * edge, 2), -1.0)
    tiles = coordinates(rows * edge, columns * edge).unflatten(0, (rows, edge))
    tiles = tiles.unflatten(2, (columns, edge)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    embedding.glb_GN = torch.nn.Parameter(torch.full((1, 1, 8), -1.0))
    embedding.sub_GN = torch.nn.Parameter(torch.full((1, 1, 1, 8), -1.0))
    tokens = embedding._sequence(torch.cat([whole, tiles]), rows, columns)

    # The first two channels of a token are those of its upper left patch.
    shown = backbone.token_map(tokens, size)[..., :2]
    assert torch.equal(shown, 2 * coordinates(rows * edge // 2, columns * edge // 2))


def test_a_map_of_llama32_follows_its_tiles_and_leaves_padding_out(shared_cache: Path) -> None:
    from transformers.models.mllama.image_processing_pil_mllama import split_to_tiles_np

    backbone = build("llama32_tiny", shared_cache)
    config = backbone.vision_modules()[0].config
    tile, patch = config.image_size, config.patch_size
    edge = tile // patch

    rows, columns = 2, 2
    pixels = coordinates(rows * tile, columns * tile).permute(2, 0, 1).numpy()
    tokens = []
    for tile_pixels in split_to_tiles_np(pixels, rows, columns):
        patches = tile_pixels[:, ::patch, ::patch] / patch
        tokens += [
            torch.full((1, 2), -1.0),
            torch.from_numpy(patches).permute(1, 2, 0).flatten(0, 1),
        ]

    full = backbone.token_map(torch.cat(tokens), (2 * tile, 2 * tile))
    assert torch.equal(full, coordinates(rows * edge, columns * edge))

    # A narrow image has padding on its right.
    narrow = backbone.token_map(torch.cat(tokens), (tile + 1, 2 * tile))
    assert narrow.shape == (rows * edge, edge + 1, 2)
    assert torch.equal(narrow, full[:, : edge + 1])


@pytest.mark.slow
def test_a_map_of_smol_shows_a_spot_where_it_is(shared_cache: Path) -> None:
    backbone = build("smol", shared_cache)
    plain = lazy_image(5, (160, 160)).rgb
    spotted = plain.copy()
    spotted.paste("white", (120, 20, 140, 40))

    before, after = backbone.feature_maps([LazyImage.of(plain), LazyImage.of(spotted)])
    assert before.shape == (28, 28, 152)
    change = np.linalg.norm(after - before, axis=-1)
    row, column = np.unravel_index(change.argmax(), change.shape)
    assert abs(row - 28 * 30 / 160) <= 3
    assert abs(column - 28 * 130 / 160) <= 3


def test_a_family_without_a_map_says_so(shared_cache: Path) -> None:
    backbone = build("plain_tiny", shared_cache)
    assert backbone.feature_maps([lazy_image(1)])[0].shape == (2, 2, 16)

    backbone.vision_modules = lambda: ()
    with pytest.raises(NoFeaturesError, match=r"vision tower of .* is not found"):
        backbone.feature_maps([lazy_image(1)])
    backbone.vision_modules = lambda: (lambda pixel_values: SimpleNamespace(),)
    with pytest.raises(NoFeaturesError, match="no square map"):
        backbone.feature_maps([LazyImage.of(Image.new("RGB", (28, 28)))])
