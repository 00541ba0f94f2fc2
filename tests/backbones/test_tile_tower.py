"""Mllama's tower for one image gives the tokens of transformers' own, with less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from transformers import MllamaVisionModel

from tests.backbones.test_attention import remove_positions_of_unused_tiles
from vlmbench.backbones._tile_tower import TileTower
from vlmbench.models.llama32_tiny import TILE, tiny_mllama, tiny_processor

SIZES = [(28, 28), (20, 28), (56, 28), (28, 84), (56, 56)]  # of 1, 1, 2, 3 and 4 tiles


def make_tower(layers: list[int], *, equal: bool) -> Any:
    """Return a random tower of three local layers; outputs of `layers` are read too."""
    processor = tiny_processor()
    config = tiny_mllama(processor.tokenizer, max_tokens=64).config.vision_config
    config.num_hidden_layers, config.intermediate_layers_indices = 3, layers
    torch.manual_seed(0)
    tower = MllamaVisionModel(config).eval()
    for name, weight in tower.named_parameters():
        if "gate" in name:
            torch.nn.init.constant_(weight, 0.7)
        else:
            weight.data += 0.2 * torch.randn_like(weight)
    if equal:
        remove_positions_of_unused_tiles(tower)
    return tower


def prepare(size: tuple[int, int]) -> tuple[dict[str, Any], int]:
    noise = Image.effect_noise(size, 60).convert("RGB")
    inputs = dict(tiny_processor().image_processor(images=[[noise]], return_tensors="pt"))
    return inputs, int(inputs.pop("num_tiles")[0][0])


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("layers", [[0], [1, -1], [0, 1, 2]])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tokens_are_those_of_the_published_tower(
    size: tuple[int, int], layers: list[int], equal: bool
) -> None:
    tower = make_tower(layers, equal=equal)
    hidden = tower.config.hidden_size
    projector = torch.nn.Linear(hidden * (1 + len(layers)), 32)
    inputs, num_tiles = prepare(size)
    with torch.no_grad():
        states = tower(**inputs).last_hidden_state
        expected = projector(states)[0, 0, :num_tiles].flatten(0, 1)

    pixels, ratio = inputs["pixel_values"][0, 0, :num_tiles], inputs["aspect_ratio_ids"].flatten()
    tokens = TileTower(tower, projector, equal_tiles=equal)(pixels, ratio)
    assert not tokens.requires_grad
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("equal", "num_computed"), [(True, 2), (False, 4)])
def test_equal_tiles_and_padding_are_computed_once(equal: bool, num_computed: int) -> None:
    """An image of one tile has 5 patches, 3 positions of padding and three unused tiles."""
    tower = make_tower([0], equal=equal)
    lengths: list[int] = []
    tower.transformer.layers[0].mlp.register_forward_pre_hook(
        lambda module, args: lengths.append(len(args[0]))
    )
    TileTower(tower, torch.nn.Identity(), equal_tiles=equal)(
        torch.zeros(1, 3, TILE, TILE), torch.tensor([1])
    )
    assert lengths == [num_computed * (5 + 1)]


def test_images_of_other_sizes_before_do_not_change_the_tokens() -> None:
    tower = make_tower([0], equal=True)
    fast = TileTower(tower, torch.nn.Identity(), equal_tiles=True)
    batches = [prepare(size) for size in SIZES]
    alone = [
        TileTower(tower, torch.nn.Identity(), equal_tiles=True)(
            inputs["pixel_values"][0, 0, :number], inputs["aspect_ratio_ids"].flatten()
        )
        for inputs, number in batches
    ]
    for (inputs, number), expected in zip(batches, alone, strict=True):
        pixels, ratio = inputs["pixel_values"][0, 0, :number], inputs["aspect_ratio_ids"].flatten()
        assert torch.equal(fast(pixels, ratio), expected)
