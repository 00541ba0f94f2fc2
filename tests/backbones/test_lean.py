"""Cheaper layers of a tower that trains: the results are those of PyTorch and PEFT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from tests.helpers.adapters import CHANGES
from tests.helpers.backbones import build
from vlmbench.config import Vision


def results_of(
    forward: Callable[[torch.Tensor], torch.Tensor], inputs: list[torch.Tensor]
) -> tuple[torch.Tensor | None, ...]:
    """Return the output for the first input, and the gradients of all inputs."""
    torch.manual_seed(0)
    out = forward(inputs[0])
    return out, *torch.autograd.grad(out.square().sum(), inputs, allow_unused=True)


@pytest.mark.parametrize("name", ["llama32_tiny", "phi3_tiny"])
@pytest.mark.parametrize("change", CHANGES)
def test_layers_of_a_tower_that_trains_are_the_published_ones(
    shared_cache: Path, name: str, change: Callable[[Any], None] | None
) -> None:
    """Compare the outputs and gradients of layer norms and adapters."""
    backbone = build(name, shared_cache, vision=Vision.lora)
    modules = [module for tower in backbone.vision_modules() for module in tower.modules()]
    lean = [module for module in modules if hasattr(vars(module).get("forward"), "func")]
    for kind in (LoraLayer, torch.nn.LayerNorm):
        layers = [module for module in modules if isinstance(module, kind)]
        assert layers
        assert layers == [module for module in lean if isinstance(module, kind)]

    adapter = next(module for module in lean if isinstance(module, LoraLayer))
    torch.nn.init.normal_(adapter.lora_B["default"].weight)
    if change is not None:
        change(adapter)
    norm = next(module for module in lean if isinstance(module, torch.nn.LayerNorm))

    widths = (adapter.base_layer.in_features, norm.normalized_shape[0])
    for module, width in zip((adapter, norm), widths, strict=True):
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(2, 3, width, generator=generator, requires_grad=True)
        inputs = [states, *(weight for weight in module.parameters() if weight.requires_grad)]
        stock = type(module).forward.__get__(module)
        for result, expected in zip(
            results_of(module.forward, inputs), results_of(stock, inputs), strict=True
        ):
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_a_tower_that_trains_keeps_the_type_in_which_images_come(shared_cache: Path) -> None:
    """In mixed precision no layer of the tower returns float32."""
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
