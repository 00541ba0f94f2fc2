"""What is particular to Llama-3.2-Vision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from PIL import Image
from transformers import DynamicCache, MllamaVisionModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.mllama.image_processing_pil_mllama import get_all_supported_aspect_ratios

from tests.backbones.test_contract import build
from vlmbench.backbones._attention import arrange, folded_attention, project_both
from vlmbench.backbones.llama32 import Llama32TinyConfig, see_own_pictures
from vlmbench.config import BuildRequest, Engine, LoraConfig, Vision
from vlmbench.models import llama32_tiny
from vlmbench.models.llama32_tiny import MAX_TILES, tiny_mllama

LOW = torch.finfo(torch.float32).min


@pytest.mark.parametrize("kind", ["added", "boolean"])
def test_words_before_the_pictures_see_what_the_later_ones_see(kind: str) -> None:
    """Two records of three words; the first word of each stands before the pictures. Four places for tiles."""
    may_look = torch.tensor(
        [[[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]], [[1, 1, 1, 1], [0, 0, 1, 0], [1, 0, 1, 0]]], dtype=torch.bool
    )[:, None]
    expected = may_look.clone()
    expected[0, 0, 0] = torch.tensor([True, True, False, False])
    expected[1, 0, 0] = torch.tensor([True, False, True, False])
    sees = torch.tensor([0.0, 1.0, 1.0]).expand(2, 3)[:, None, :, None]
    mask = may_look if kind == "boolean" else torch.where(may_look, 0.0, LOW)
    inputs = {"cross_attention_mask": mask, "full_text_row_masked_out_mask": sees, "position_ids": None}
    _, changed = see_own_pictures(None, (), inputs)
    found = changed["cross_attention_mask"]
    assert torch.equal(found if kind == "boolean" else found == 0, expected)
    assert set(changed) == set(inputs)
    if kind == "added":
        assert set(found.unique().tolist()) == {0.0, LOW}


def test_without_a_mask_nothing_changes() -> None:
    inputs = {"cross_attention_mask": None, "full_text_row_masked_out_mask": None}
    assert see_own_pictures(None, (), inputs) == ((), inputs)


@pytest.mark.parametrize("kind", ["none", "boolean", "added"])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_folded_attention_is_attention(kind: str, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 5, 8, generator=generator, requires_grad=True)
    key, value = (torch.randn(2, groups, 9, 8, generator=generator, requires_grad=True) for _ in range(2))
    boolean = torch.rand(2, 1, 5, 9, generator=generator) > 0.4
    mask = {"none": None, "boolean": boolean, "added": torch.where(boolean, 0.0, LOW)}[kind]
    module: Any = SimpleNamespace(num_key_value_groups=6 // groups, is_causal=False)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    expected = expected.transpose(1, 2)
    gradients = torch.autograd.grad(expected.square().sum(), (query, key, value))
    found = folded_attention(query, key, value, mask, scale=0.3)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found.square().sum(), (query, key, value)), gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("cached", [False, True])
def test_lean_cross_attention_is_the_model_s_own(shared_cache: Path, cached: bool) -> None:
    """Outputs, gradients of adapters, and what a cache gives to the words after it."""
    backbone = build("llama32_tiny", shared_cache)
    module = backbone.model.get_base_model().model.language_model.layers[1].cross_attn
    torch.nn.init.normal_(module.k_proj.lora_B["default"].weight)
    torch.nn.init.normal_(module.v_proj.lora_B["default"].weight)
    generator = torch.Generator().manual_seed(0)
    words, pictures = (torch.randn(2, n, 32, generator=generator) for n in (5, 9))
    mask = torch.rand(2, 1, 5, 9, generator=generator) > 0.4
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    found = []
    for forward in (module.forward, type(module).forward.__get__(module)):
        cache = DynamicCache(config=backbone.model.config.text_config) if cached else None
        if cache is not None:  # the model asks its first layer whether anything was seen before
            cache.update(torch.zeros(2, 2, 5, 8), torch.zeros(2, 2, 5, 8), 0)
        out = forward(words, cross_attention_states=pictures, attention_mask=mask, past_key_values=cache)[0]
        if cached:
            out = out + forward(words, attention_mask=mask, past_key_values=cache)[0]
        found.append((out, torch.autograd.grad(out.square().sum(), weights)))
    (lean, lean_gradients), (own, own_gradients) = found
    torch.testing.assert_close(lean, own)
    for one, other in zip(lean_gradients, own_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def with_dropout(layer: Any) -> None:
    layer.lora_dropout["default"] = torch.nn.Dropout(0.5)


def switched_off(layer: Any) -> None:
    layer.enable_adapters(False)


def merged(layer: Any) -> None:
    layer.merge()


@pytest.mark.parametrize("change", [None, with_dropout, switched_off, merged])
def test_both_projections_at_once_are_each_alone(shared_cache: Path, change: Callable[[Any], None] | None) -> None:
    module = build("llama32_tiny", shared_cache).model.get_base_model().model.language_model.layers[1].cross_attn
    layers = module.k_proj, module.v_proj
    for layer in layers:
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    if change is not None:
        change(layers[1])
    states = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    found = project_both(states, *layers)
    torch.manual_seed(0)
    for one, layer in zip(found, layers, strict=True):
        torch.testing.assert_close(one, layer(states))


def no_positions_for_unused_tiles(tower: Any) -> None:
    """As the published weights have it: of each aspect ratio's embeddings, those of the tiles that it uses."""
    ratios = get_all_supported_aspect_ratios(tower.max_num_tiles)
    used = [0, *(height * width for height, width in ratios)]
    for module in (tower.pre_tile_positional_embedding, tower.post_tile_positional_embedding):
        zero_beyond(module.embedding.weight.data, used)
    zero_beyond(tower.gated_positional_embedding.tile_embedding.weight.data, used)


def as_published(cache: Path, monkeypatch: pytest.MonkeyPatch, dropout: float = 0.0) -> Any:
    """A backbone that trains its tower, on weights without positions for unused tiles."""

    def published(*args: Any, **settings: Any) -> Any:
        model = tiny_mllama(*args, **settings)
        no_positions_for_unused_tiles(model.model.vision_model)
        return model

    monkeypatch.setattr(llama32_tiny, "tiny_mllama", published)
    request = BuildRequest(seed=0, engine=Engine.transformers, vision=Vision.lora, cache_dir=cache)
    return Llama32TinyConfig(lora=LoraConfig(dropout=dropout)).build(request)


def zero_beyond(weight: torch.Tensor, used: list[int]) -> None:
    for row, number in zip(weight, used, strict=True):
        row.view(MAX_TILES, -1)[number:] = 0


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("sizes", [[(28, 28)], [(56, 28), (28, 28)], [(56, 56), (28, 56), (28, 28), (28, 20)]])
def test_the_tower_is_the_published_one(
    shared_cache: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[tuple[int, int]], folds: bool
) -> None:
    """Pictures of one to four tiles, alone and together, with weights by which unused tiles differ and without: the
    tokens, and the gradients of the pixels."""
    plain = build("llama32_tiny", shared_cache, vision=Vision.lora)
    backbone = as_published(shared_cache, monkeypatch) if folds else plain
    images = [Image.effect_noise(size, 60).convert("RGB") for size in sizes]
    inputs = backbone.processor.image_processor(images=[images], return_tensors="pt")
    num_tiles = inputs.pop("num_tiles")[0]
    published = MllamaVisionModel(backbone.model.config.vision_config).eval()
    tower = backbone.model.get_base_model().model.vision_model
    own = tower.state_dict().items()
    published.load_state_dict({name.replace(".base_layer", ""): weight for name, weight in own if "lora_" not in name})
    outputs, gradients = [], []
    for model in (tower, published):
        pixels = inputs["pixel_values"].clone().requires_grad_()
        weights = [model.patch_embedding.weight, *model.transformer.layers[0].input_layernorm.parameters()]
        for weight in weights:
            weight.requires_grad_()
        states = model(**{**inputs, "pixel_values": pixels}).last_hidden_state[0]
        shown = torch.cat([one[:tiles].flatten() for one, tiles in zip(states, num_tiles, strict=True)])
        outputs.append(shown)
        of_pixels, *of_weights = torch.autograd.grad(shown.square().sum(), [pixels, *weights])
        # What unused tiles have in common may come from any of them.
        of_shown = [one[:tiles] for one, tiles in zip(of_pixels[0], num_tiles, strict=True)]
        of_unused = [one[tiles:].sum(0) for one, tiles in zip(of_pixels[0], num_tiles, strict=True)]
        gradients.append([*of_shown, *of_unused, *of_weights])
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("dropout", "tokens"), [(0.0, [2 * 8, 2 * 8]), (0.5, [4 * 8, 4 * 8])])
def test_of_unused_tiles_that_are_the_same_one_is_computed(
    shared_cache: Path, monkeypatch: pytest.MonkeyPatch, dropout: float, tokens: list[int]
) -> None:
    """A picture of one tile: 5 tokens and 3 that fill it up; beside it, one tile of the three that show nothing. With
    dropout they would differ."""
    backbone = as_published(shared_cache, monkeypatch, dropout)
    tower = backbone.model.get_base_model().model.vision_model
    seen: list[int] = []
    for encoder in (tower.transformer, tower.global_transformer):
        encoder.layers[0].register_forward_pre_hook(
            lambda module, args, inputs: seen.append(inputs["hidden_state"].shape[1]), with_kwargs=True
        )
    inputs = backbone.processor.image_processor(images=[[Image.new("RGB", (28, 28))]], return_tensors="pt")
    inputs.pop("num_tiles")
    assert not inputs["pixel_values"][0, 0, 1:].any()  # else they would not be the same
    tower(**inputs)
    assert seen == tokens


def test_tokens_are_found_where_they_stood() -> None:
    """Four tiles of two tokens; the first picture uses one tile, of which one token is empty, the second one two."""
    empty = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]], dtype=torch.bool)
    found = arrange(empty, num_tiles=4, folds=True)
    assert (found.counts, found.tile, found.copies) == ([1, 3], 2, 1)  # the second picture has one tile to leave out
    assert found.order.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert found.places.tolist() == [[0, 1, 2, 3, 4, 5, 4, 5], [0, 1, 2, 3, 4, 5, 4, 5]]
    alone = arrange(empty[:1], num_tiles=4, folds=True)
    assert (alone.copies, alone.order.tolist(), alone.places.tolist()) == (
        2,
        [[0, 1, 2, 3]],
        [[0, 1, 2, 3, 2, 3, 2, 3]],
    )
    for different in (arrange(empty, num_tiles=4, folds=False), arrange(empty[:, :4], num_tiles=2, folds=True)):
        assert different.copies == 0
        assert different.order.tolist() == different.places.tolist() == [list(range(different.order.shape[1]))] * 2


@pytest.mark.parametrize("name", ["llama32_tiny", "phi3_tiny"])
@pytest.mark.parametrize("change", [None, with_dropout, switched_off, merged])
def test_layers_of_a_tower_that_trains_are_the_published_ones(
    shared_cache: Path, name: str, change: Callable[[Any], None] | None
) -> None:
    """Layer norms and adapters: what they give, and their gradients."""
    backbone = build(name, shared_cache, vision=Vision.lora)
    modules = [module for tower in backbone._vision_modules() for module in tower.modules()]
    lean = [module for module in modules if "forward" in vars(module) and hasattr(module.forward, "func")]
    layers = [module for module in lean if isinstance(module, LoraLayer)]
    norms = [module for module in lean if isinstance(module, torch.nn.LayerNorm)]
    assert len(layers) == len([module for module in modules if isinstance(module, LoraLayer)]) > 0
    assert len(norms) == len([module for module in modules if isinstance(module, torch.nn.LayerNorm)]) > 0
    for module in (layers[0], norms[0]):
        if isinstance(module, LoraLayer):
            torch.nn.init.normal_(module.lora_B["default"].weight)
            if change is not None:
                change(module)
            width = module.base_layer.in_features
        else:
            width = module.normalized_shape[0]
        states = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(0), requires_grad=True)
        weights = [states, *(weight for weight in module.parameters() if weight.requires_grad)]
        found = []
        for forward in (module.forward, type(module).forward.__get__(module)):
            torch.manual_seed(0)
            out = forward(states)
            found.append((out, *torch.autograd.grad(out.square().sum(), weights, allow_unused=True)))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_tower_that_trains_keeps_the_type_in_which_pictures_come(shared_cache: Path) -> None:
    """In mixed precision nothing becomes float32 on its way through the tower's layers."""
    backbone = build("llama32_tiny", shared_cache, vision=Vision.lora)
    tower = backbone.model.get_base_model().model.vision_model
    layer = tower.transformer.layers[0]
    for weight in layer.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.bfloat16()
    states = torch.randn(2, 3, layer.hidden_size).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for module in (layer.input_layernorm, layer.self_attn.q_proj, layer.mlp.fc1):
            assert module(states).dtype == torch.bfloat16
