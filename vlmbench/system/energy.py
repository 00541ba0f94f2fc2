"""Energy that a run's GPU uses: NVML's counter is read before and after, if the GPU has one."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from vlmbench.system import processes


class Meter(Protocol):
    """A meter that measures from the moment it was made."""

    def joules(self) -> float | None:
        """Return the energy of the whole GPU, all programs included; None if it is unknown."""


@dataclass(frozen=True, slots=True)
class NoMeter:
    """A meter without a counter: no NVIDIA GPU, no nvidia-ml-py (`vlmbench[gpu]`), or an old
    GPU."""

    def joules(self) -> float | None:
        return None


@dataclass(frozen=True, slots=True)
class GpuMeter:
    """A meter of one GPU. `handle` is NVML's; `start_mj` is the counter in millijoules at the
    start."""

    nvml: Any
    handle: Any
    start_mj: int

    def joules(self) -> float | None:
        try:
            used_mj = self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) - self.start_mj
        except self.nvml.NVMLError:
            return None

        # A negative difference: loading the driver has reset the counter.
        return float(used_mj) / 1000 if used_mj >= 0 else None


def start_meter() -> Meter:
    """Return a meter of this process's GPU.

    A run of several processes has several GPUs, and each process sees only its own. The energy of
    such a run is unknown.
    """
    if find_spec("pynvml") is None or processes.count() > 1:
        return NoMeter()

    import pynvml
    import torch

    if not torch.cuda.is_available():
        return NoMeter()

    try:
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(0).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        return GpuMeter(pynvml, handle, pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    except pynvml.NVMLError:
        return NoMeter()
