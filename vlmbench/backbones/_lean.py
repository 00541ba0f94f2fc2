"""Layers of a tower that trains, at less cost in mixed precision: what is computed is the same, but for the last bits.

Under autocast PyTorch's layer norms give float32, and PEFT's adapters read a float32 copy of what comes in; the next
product turns both into 16 bits again, and the copies are kept for the backward pass. Here everything stays in the type
in which it comes; sums within a norm are float32 all the same, in the GPU's own kernel.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn.functional import linear


def use_lean_layers(tower: Any) -> None:
    """Put them in the place of a tower's layer norms and adapters; the modules, and their names, stay."""
    for module in tower.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.forward = partial(_norm, module)
        elif isinstance(module, LoraLayer):
            module.forward = partial(_adapted, module)


def _norm(module: Any, states: Tensor) -> Tensor:
    with torch.autocast(states.device.type, enabled=False):
        return type(module).forward(module, states)


def _adapted(layer: Any, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    name = only_adapter(layer)
    if name is None:
        return type(layer).forward(layer, states, *args, **kwargs)
    out = layer.base_layer(states)
    low = linear(states, layer.lora_A[name].weight.to(states.dtype))
    # Scaled while small; and added by the product itself, which saves a pass over all that the layer gives.
    up = (layer.lora_B[name].weight * layer.scaling[name]).to(states.dtype)
    return torch.addmm(out.flatten(0, -2), low.flatten(0, -2), up.t()).view(out.shape)


def only_adapter(layer: Any) -> str | None:
    """Its adapter's name, if it is plain LoRA (arXiv:2106.09685), switched on, with one adapter and no dropout."""
    if not isinstance(layer, LoraLayer) or layer.merged or layer.disable_adapters or len(layer.active_adapters) != 1:
        return None
    (name,) = layer.active_adapters
    plain = (
        name in layer.lora_A
        and name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and layer.lora_B[name].bias is None
    )
    return name if plain else None
