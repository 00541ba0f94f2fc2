"""Levels of the store in memory: on the model's device, and in the host's."""

from __future__ import annotations

import weakref
from collections import OrderedDict, defaultdict, deque
from threading import Lock
from typing import Any

import torch
from torch import Tensor

SLAB = 2**28  # bytes: PyTorch gives powers of two without waste
ALIGNED = 64  # bytes
SHARE = 0.5  # of the memory that is free, unless a budget is set


class MemoryLevel:
    """Tensors by key within a budget of bytes.

    What was used since `begin_run` stays; of the rest, the least recently used make room. An epoch shows every picture
    once: where not all fit, each new one would push out one that is shown again sooner, and of random epochs of which
    71 % fit, 36 % would be found instead of 71 %.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.num_bytes = budget, 0
        self._tensors: OrderedDict[str, Tensor] = OrderedDict()  # the least recently used first
        self._used: set[str] = set()

    def begin_run(self) -> None:
        """What was used before may make room from here on."""
        self._used.clear()

    def get(self, key: str) -> Tensor | None:
        tensor = self._tensors.get(key)
        if tensor is not None:
            self._tensors.move_to_end(key)
            self._used.add(key)
        return tensor

    def makes_room(self, num_bytes: int) -> bool:
        """Whether so many bytes fit, after those made room that do so."""
        while self._tensors and self.num_bytes + num_bytes > self.budget >= num_bytes:
            oldest = next(iter(self._tensors))
            if oldest in self._used:
                break
            self.num_bytes -= self._tensors.pop(oldest).nbytes
        return self.num_bytes + num_bytes <= self.budget

    def put(self, key: str, tensor: Tensor) -> bool:
        """Keep the tensor, if it fits; whether one is kept under this key."""
        if key not in self._tensors and self.makes_room(tensor.nbytes):
            self._tensors[key] = tensor
            self.num_bytes += tensor.nbytes
            self._used.add(key)
        return key in self._tensors

    def remove(self, key: str) -> None:
        tensor = self._tensors.pop(key, None)
        if tensor is not None:
            self.num_bytes -= tensor.nbytes


class PinnedMemory:
    """Tensors in pinned host memory, packed into slabs. Several threads may ask for them at once.

    PyTorch's own allocator gives each tensor the next power of two: 16.8 MB for the 13.1 MB of a Mllama tile. Its
    place is free again once nobody holds it (views of it do not count) and `stream` has read what it was to read.
    """

    def __init__(self, stream: Any | None, *, slab: int = SLAB) -> None:
        self._stream, self._slab = stream, slab
        self._free: dict[int, deque[tuple[Tensor, Any | None]]] = defaultdict(deque)  # places by bytes
        self._one_at_a_time = Lock()
        self.num_bytes = 0  # of all slabs

    def copy(self, tensor: Tensor) -> Tensor:
        """From a GPU the copy arrives after all that `stream` was given before: nobody waits for it here."""
        copied = self.empty_like(tensor)
        if self._stream is None or not tensor.is_cuda:
            copied.copy_(tensor)
        else:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                copied.copy_(tensor, non_blocking=True)
            tensor.record_stream(self._stream)
        return copied

    def empty_like(self, tensor: Tensor) -> Tensor:
        """A place for numbers of the tensor's shape and type."""
        place = self._place(tensor.nbytes)
        made = place.view(tensor.dtype).view(tensor.shape)
        weakref.finalize(made, self._give_back, place).atexit = False
        return made

    def _place(self, size: int) -> Tensor:
        with self._one_at_a_time:
            free = self._free[size]
            if not free:
                step = -(-size // ALIGNED) * ALIGNED  # places begin where any type may
                count = max(1, self._slab // step)
                slab = torch.empty(count * step, dtype=torch.uint8, pin_memory=self._stream is not None)
                self.num_bytes += len(slab)
                free.extend((slab[i * step : i * step + size], None) for i in range(count))
            place, read = free.popleft()
        if read is not None:
            read.synchronize()
        return place

    def _give_back(self, place: Tensor) -> None:
        read = None if self._stream is None else self._stream.record_event()
        self._free[place.nbytes].append((place, read))


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
