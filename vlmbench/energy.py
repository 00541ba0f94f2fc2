"""What a run takes from its GPU: read from NVML before and after, where that can be known."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from vlmbench import processes


class Meter(Protocol):
    """Runs from when it was made."""

    def joules(self) -> float | None:
        """Since then, of the whole GPU, whoever uses it; None where that is not known."""


@dataclass(frozen=True, slots=True)
class NoMeter:
    """Where nothing is known: no NVIDIA GPU, no nvidia-ml-py (`vlmbench[gpu]`), or a GPU that does not count."""

    def joules(self) -> float | None:
        return None


@dataclass(frozen=True, slots=True)
class GpuMeter:
    """`handle` is NVML's; `before` is the GPU's counter in millijoules."""

    nvml: Any
    handle: Any
    before: int

    def joules(self) -> float | None:
        try:
            used = self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) - self.before
        except self.nvml.NVMLError:
            return None
        return float(used) / 1000 if used >= 0 else None  # the counter begins anew when the driver is loaded


def start_meter() -> Meter:
    """A meter of this process's GPU. A run of several processes has several GPUs, of which each sees its own: its
    energy is not known."""
    if find_spec("pynvml") is None or processes.count() > 1:
        return NoMeter()
    import pynvml
    import torch

    if not torch.cuda.is_available():
        return NoMeter()
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        return GpuMeter(pynvml, handle, pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    except pynvml.NVMLError:
        return NoMeter()
