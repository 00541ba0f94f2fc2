"""Cheaper layers of a tower that trains: the results are those of PyTorch and PEFT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from tests.helpers.adapters import CHANGES
from tests.helpers.backbones import build, sample
from vlmbench.backbones._lean import use_lean_layers
from vlmbench.backbones.batches import complete_batch
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


@pytest.mark.parametrize("name", ["llama32_tiny", "phi3_tiny"])
def test_norms_and_adapters_of_a_decoder_are_the_published_ones(tmp_path: Path, name: str) -> None:
    """Compare the loss and the gradients of a training step, with weights that are not all 1."""
    backbone = build(name, tmp_path)  # the tower's norms change, so its tokens are of this test
    model, samples = backbone.model.eval(), [sample(0), sample(1)]
    torch.manual_seed(0)
    for layer_name, weight in model.named_parameters():
        if "norm" in layer_name or "lora_B" in layer_name:
            torch.nn.init.normal_(weight, 1 if "norm" in layer_name else 0, 0.3)

    def step() -> tuple[torch.Tensor, list[torch.Tensor]]:
        loss = model(**complete_batch(backbone.train_batch(samples))).loss
        return loss, torch.autograd.grad(
            loss, [weight for weight in model.parameters() if weight.requires_grad]
        )

    usual_loss, usual = step()
    vision = {part for module in backbone.vision_modules() for part in module.modules()}
    use_lean_layers(part for part in model.modules() if part not in vision)
    lean = [module for module in model.modules() if hasattr(vars(module).get("forward"), "func")]
    norms = [module for module in lean if type(module).__name__.endswith("RMSNorm")]
    assert len(norms) >= 5  # two of each layer, and the last
    assert any(isinstance(module, LoraLayer) for module in lean)

    loss, gradients = step()
    torch.testing.assert_close(loss, usual_loss, rtol=1e-5, atol=1e-6)
    for gradient, expected in zip(gradients, usual, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


class OffsetRMSNorm(torch.nn.Module):
    """A norm as Gemma has it: its weight is what differs from 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.eps = torch.nn.Parameter(torch.zeros(width)), 1e-6

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        scale = states.square().mean(-1, keepdim=True).add(self.eps).rsqrt()
        return states * scale * (1 + self.weight)


class GatedRMSNorm(OffsetRMSNorm):
    def forward(self, states: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return super().forward(states) * gate


class GroupedRMSNorm(OffsetRMSNorm):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.weight = torch.nn.Parameter(torch.ones(2, width // 2))


@pytest.mark.parametrize("kind", [OffsetRMSNorm, GatedRMSNorm, GroupedRMSNorm])
def test_norms_that_compute_something_else_stay(kind: type[torch.nn.Module]) -> None:
    norm = kind(8)
    use_lean_layers([norm])
    assert "forward" not in vars(norm)


def test_a_norm_keeps_the_type_of_its_input(shared_cache: Path) -> None:
    decoder = build("llama32_tiny", shared_cache).model.get_base_model().model.language_model
    use_lean_layers(decoder.modules())
    states = torch.randn(2, decoder.config.hidden_size).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decoder.norm(states).dtype == torch.bfloat16


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
