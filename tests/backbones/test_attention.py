"""Mllama's attention at lower cost: the results are those of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import DynamicCache, MllamaVisionModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.mllama.image_processing_pil_mllama import get_all_supported_aspect_ratios

from tests.helpers.adapters import CHANGES
from tests.helpers.backbones import build, make_request
from vlmbench.backbones._attention import folded_attention, order_tokens, project_both
from vlmbench.backbones.llama32 import Llama32TinyConfig
from vlmbench.config import LoraConfig, Vision
from vlmbench.models import llama32_tiny
from vlmbench.models.llama32_tiny import MAX_TILES, tiny_mllama

LOW = torch.finfo(torch.float32).min


@pytest.mark.parametrize("kind", ["none", "boolean", "added"])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_folded_attention_is_attention(kind: str, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 5, 8, generator=generator, requires_grad=True)
    key, value = (
        torch.randn(2, groups, 9, 8, generator=generator, requires_grad=True) for _ in range(2)
    )
    boolean = torch.rand(2, 1, 5, 9, generator=generator) > 0.4
    mask = {"none": None, "boolean": boolean, "added": torch.where(boolean, 0.0, LOW)}[kind]

    module: Any = SimpleNamespace(num_key_value_groups=6 // groups, is_causal=False)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    expected = expected.transpose(1, 2)
    folded = folded_attention(query, key, value, mask, scale=0.3)
    torch.testing.assert_close(folded, expected)

    inputs = (query, key, value)
    torch.testing.assert_close(
        torch.autograd.grad(folded.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
    )


@pytest.mark.parametrize("cached", [False, True])
def test_lean_cross_attention_is_the_model_s_own(shared_cache: Path, cached: bool) -> None:
    """Compare outputs, gradients of adapters, and what a cache gives to later words."""
    backbone = build("llama32_tiny", shared_cache)
    module = cross_attention_of(backbone)
    torch.nn.init.normal_(module.k_proj.lora_B["default"].weight)
    torch.nn.init.normal_(module.v_proj.lora_B["default"].weight)

    generator = torch.Generator().manual_seed(0)
    words, images = (torch.randn(2, length, 32, generator=generator) for length in (5, 9))
    mask = torch.rand(2, 1, 5, 9, generator=generator) > 0.4
    weights = [weight for weight in module.parameters() if weight.requires_grad]

    results = []
    for forward in (module.forward, type(module).forward.__get__(module)):
        cache = DynamicCache(config=backbone.model.config.text_config) if cached else None
        if cache is not None:  # the model asks its first layer whether the cache is empty
            cache.update(torch.zeros(2, 2, 5, 8), torch.zeros(2, 2, 5, 8), 0)
        out = forward(
            words, cross_attention_states=images, attention_mask=mask, past_key_values=cache
        )[0]
        if cached:
            out = out + forward(words, attention_mask=mask, past_key_values=cache)[0]
        results.append((out, torch.autograd.grad(out.square().sum(), weights)))

    (lean, lean_gradients), (stock, stock_gradients) = results
    torch.testing.assert_close(lean, stock)
    torch.testing.assert_close(lean_gradients, stock_gradients, rtol=1e-4, atol=1e-4)


def cross_attention_of(backbone: Any) -> Any:
    return backbone.model.get_base_model().model.language_model.layers[1].cross_attn


@pytest.mark.parametrize("change", CHANGES)
def test_both_projections_at_once_are_each_alone(
    shared_cache: Path, change: Callable[[Any], None] | None
) -> None:
    module = cross_attention_of(build("llama32_tiny", shared_cache))
    layers = module.k_proj, module.v_proj
    for layer in layers:
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    if change is not None:
        change(layers[1])

    states = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    together = project_both(states, *layers)
    torch.manual_seed(0)
    for projected, layer in zip(together, layers, strict=True):
        torch.testing.assert_close(projected, layer(states))


def remove_positions_of_unused_tiles(tower: Any) -> None:
    """Zero embeddings of tiles that an aspect ratio does not use, as in the published weights."""
    ratios = get_all_supported_aspect_ratios(tower.max_num_tiles)
    num_used = [0, *(height * width for height, width in ratios)]
    for module in (tower.pre_tile_positional_embedding, tower.post_tile_positional_embedding):
        zero_beyond(module.embedding.weight.data, num_used)
    zero_beyond(tower.gated_positional_embedding.tile_embedding.weight.data, num_used)


def zero_beyond(weight: torch.Tensor, num_used: list[int]) -> None:
    for row, number in zip(weight, num_used, strict=True):
        row.view(MAX_TILES, -1)[number:] = 0


def build_as_published(cache: Path, monkeypatch: pytest.MonkeyPatch, dropout: float = 0.0) -> Any:
    """Return a backbone that trains its tower, on weights without positions for unused tiles."""

    def published(*args: Any, **settings: Any) -> Any:
        model = tiny_mllama(*args, **settings)
        remove_positions_of_unused_tiles(model.model.vision_model)
        return model

    monkeypatch.setattr(llama32_tiny, "tiny_mllama", published)
    request = make_request(cache, vision=Vision.lora)
    return Llama32TinyConfig(lora=LoraConfig(dropout=dropout)).build(request)


def stock_tower(backbone: Any) -> Any:
    """Return transformers' own tower with the backbone's weights, without adapters."""
    weights = backbone.model.get_base_model().model.vision_model.state_dict()
    tower = MllamaVisionModel(backbone.model.config.vision_config).eval()
    tower.load_state_dict(
        {
            name.replace(".base_layer", ""): weight
            for name, weight in weights.items()
            if "lora_" not in name
        }
    )
    return tower


def tower_results(
    tower: Any, inputs: dict[str, Any], num_tiles: list[int]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the tokens of used tiles, and gradients of pixels and of some weights."""
    pixels = inputs["pixel_values"].clone().requires_grad_()
    weights = [
        tower.patch_embedding.weight,
        *tower.transformer.layers[0].input_layernorm.parameters(),
    ]
    for weight in weights:
        weight.requires_grad_()

    states = tower(**{**inputs, "pixel_values": pixels}).last_hidden_state[0]
    used = torch.cat(
        [row[:number].flatten() for row, number in zip(states, num_tiles, strict=True)]
    )
    of_pixels, *of_weights = torch.autograd.grad(used.square().sum(), [pixels, *weights])

    # A gradient that unused tiles share may come from any of them.
    rows = list(zip(of_pixels[0], num_tiles, strict=True))
    of_used = [row[:number] for row, number in rows]
    of_unused = [row[number:].sum(0) for row, number in rows]
    return used, [*of_used, *of_unused, *of_weights]


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize(
    "sizes", [[(28, 28)], [(56, 28), (28, 28)], [(56, 56), (28, 56), (28, 28), (28, 20)]]
)
def test_the_tower_is_the_published_one(
    shared_cache: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[tuple[int, int]], folds: bool
) -> None:
    """Images of one to four tiles; unused tiles are equal or different."""
    if folds:
        backbone = build_as_published(shared_cache, monkeypatch)
    else:
        backbone = build("llama32_tiny", shared_cache, vision=Vision.lora)

    images = [Image.effect_noise(size, 60).convert("RGB") for size in sizes]
    inputs = dict(backbone.processor.image_processor(images=[images], return_tensors="pt"))
    num_tiles = inputs.pop("num_tiles")[0]

    tower = backbone.model.get_base_model().model.vision_model
    tokens, gradients = tower_results(tower, inputs, num_tiles)
    expected, expected_gradients = tower_results(stock_tower(backbone), inputs, num_tiles)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("dropout", "lengths"), [(0.0, [2 * 8, 2 * 8]), (0.5, [4 * 8, 4 * 8])])
def test_of_unused_tiles_that_are_the_same_one_is_computed(
    shared_cache: Path, monkeypatch: pytest.MonkeyPatch, dropout: float, lengths: list[int]
) -> None:
    """An image of one tile: 5 tokens and 3 of padding; one of its three unused tiles is computed.

    With dropout, unused tiles would differ.
    """
    backbone = build_as_published(shared_cache, monkeypatch, dropout)
    tower = backbone.model.get_base_model().model.vision_model
    seen_lengths: list[int] = []
    for encoder in (tower.transformer, tower.global_transformer):
        encoder.layers[0].register_forward_pre_hook(
            lambda module, args, inputs: seen_lengths.append(inputs["hidden_state"].shape[1]),
            with_kwargs=True,
        )

    black = Image.new("RGB", (28, 28))
    inputs = backbone.processor.image_processor(images=[[black]], return_tensors="pt")
    inputs.pop("num_tiles")
    assert not inputs["pixel_values"][0, 0, 1:].any()  # else unused tiles would differ
    tower(**inputs)
    assert seen_lengths == lengths


def test_tokens_are_found_where_they_stood() -> None:
    """Four tiles of two tokens.

    The first image uses one tile, of which one token is empty. The second image uses two tiles.
    """
    empty = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]], dtype=torch.bool)
    both = order_tokens(empty, num_tiles=4, folds=True)
    assert both.counts == [1, 3]
    assert (both.tile, both.copies) == (2, 1)  # the second image can leave out one tile
    assert both.order.tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    assert both.slots.tolist() == [[0, 1, 2, 3, 4, 5, 4, 5]] * 2

    alone = order_tokens(empty[:1], num_tiles=4, folds=True)
    assert alone.copies == 2
    assert alone.order.tolist() == [[0, 1, 2, 3]]
    assert alone.slots.tolist() == [[0, 1, 2, 3, 2, 3, 2, 3]]


@pytest.mark.parametrize(("length", "num_tiles", "folds"), [(8, 4, False), (4, 2, True)])
def test_without_equal_unused_tiles_all_tokens_are_computed(
    length: int, num_tiles: int, folds: bool
) -> None:
    empty = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]], dtype=torch.bool)
    everything = order_tokens(empty[:, :length], num_tiles=num_tiles, folds=folds)
    assert everything.copies == 0
    assert everything.order.tolist() == [list(range(length))] * 2
    assert everything.slots.tolist() == [list(range(length))] * 2
