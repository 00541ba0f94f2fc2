"""Cheaper layers for a tower that trains in mixed precision, equal but for the last bits.

Under autocast PyTorch's layer norms return float32, and PEFT's adapters copy their input to
float32. The next product converts both to 16 bits again, and the backward pass keeps the copies.
Here every tensor keeps its type. Sums within a norm are still float32, in the GPU's own kernel.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn.functional import linear


def use_lean_layers(tower: Any) -> None:
    """Replace the forward of a tower's layer norms and adapters. The modules keep their names."""
    for module in tower.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.forward = partial(_norm, module)
        elif isinstance(module, LoraLayer):
            module.forward = partial(_adapter, module)


def _norm(module: Any, states: Tensor) -> Tensor:
    with torch.autocast(states.device.type, enabled=False):
        return type(module).forward(module, states)


def _adapter(layer: Any, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    name = only_adapter(layer)
    if name is None:
        return type(layer).forward(layer, states, *args, **kwargs)

    out = layer.base_layer(states)
    low = linear(states, layer.lora_A[name].weight.to(states.dtype))
    # The small matrix is scaled, and the product adds its result: that saves a pass over `out`.
    up = (layer.lora_B[name].weight * layer.scaling[name]).to(states.dtype)
    return torch.addmm(out.flatten(0, -2), low.flatten(0, -2), up.t()).view(out.shape)


def only_adapter(layer: Any) -> str | None:
    """Return the name of the layer's one active adapter, if it is plain LoRA without dropout.

    Return None if there is another number of adapters, or if they are merged or disabled.
    """
    if not isinstance(layer, LoraLayer) or layer.merged or layer.disable_adapters:
        return None
    if len(layer.active_adapters) != 1:
        return None

    (name,) = layer.active_adapters
    is_plain = (
        name in layer.lora_A
        and name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and layer.lora_B[name].bias is None
    )
    return name if is_plain else None
