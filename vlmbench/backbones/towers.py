"""Vision towers: how to freeze them, what they cost, and a hash of their weights."""

from __future__ import annotations

import hashlib
from typing import Any

from vlmbench.system import threads
from vlmbench.system.threads import map_ahead


def without_gradients(module: Any) -> None:
    """Freeze a module and run it outside of autograd.

    Checkpointing makes the inputs require gradients. Without this, they would pass through the
    frozen module.
    """
    import torch

    module.requires_grad_(False)
    module.forward = torch.no_grad()(module.forward)


def tower_flops(tower: Any, positions: int, *, pairs: int, layers: int, width: int) -> float:
    """Return the floating-point operations of a vision transformer.

    Each weight takes two operations a position. `pairs` are the pairs of positions where one
    attends to the other: in each layer, each pair takes `4 * width` operations.
    """
    num_weights: int = sum(weight.numel() for weight in tower.parameters())
    return 2.0 * num_weights * positions + 4.0 * pairs * width * layers


def weights_hash(settings: str, *modules: Any) -> str:
    """Return a hash (128 bits, hexadecimal) of settings and of the modules' weights and types."""
    digest = hashlib.sha256(settings.encode())
    weights = [item for module in modules for item in module.state_dict().items()]
    hashes = map_ahead(_tensor_hash, [tensor for _, tensor in weights], ahead=threads.count())
    for (name, tensor), content in zip(weights, hashes, strict=True):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {content}".encode())
    return digest.hexdigest()[:32]


def _tensor_hash(tensor: Any) -> str:
    import torch

    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(raw.numpy()).hexdigest()
