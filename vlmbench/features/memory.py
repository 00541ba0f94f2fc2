"""Levels of the store in memory: on the model's device, and in the host's."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

SHARE = 0.5  # of the memory that is free, unless a budget is set


class MemoryLevel:
    """Tensors by key within a budget of bytes; the least recently used go first.

    `pinned`: in host memory that a GPU can read while it computes.
    """

    def __init__(self, budget: int, *, pinned: bool = False) -> None:
        self._budget, self._pinned = budget, pinned
        self._tensors: OrderedDict[str, Tensor] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._tensors)

    def get(self, key: str) -> Tensor | None:
        tensor = self._tensors.get(key)
        if tensor is not None:
            self._tensors.move_to_end(key)
        return tensor

    def put(self, key: str, tensor: Tensor) -> Tensor:
        """Keep the tensor, unless it alone is over the budget. Gives it as it lies in this level's memory."""
        if self._pinned:
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            tensor = pinned.copy_(tensor)
        if tensor.nbytes > self._budget or key in self._tensors:
            return tensor
        self._tensors[key] = tensor
        self.num_bytes += tensor.nbytes
        while self.num_bytes > self._budget:
            _, oldest = self._tensors.popitem(last=False)
            self.num_bytes -= oldest.nbytes
        return tensor


def device_budget(device: torch.device, gigabytes: float | None) -> int:
    """Bytes on the device: as set, or half of what is free now."""
    if gigabytes is not None:
        return round(gigabytes * 1e9)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * SHARE)
    return host_budget(None)


def host_budget(gigabytes: float | None) -> int:
    """Bytes of host memory: as set, or half of what is available now."""
    import psutil

    if gigabytes is not None:
        return round(gigabytes * 1e9)
    return int(psutil.virtual_memory().available * SHARE)
