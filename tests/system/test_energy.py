"""A run's energy is known only if the GPU has a readable counter."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vlmbench.system import energy


class FakeNvml(SimpleNamespace):
    """A GPU whose counter grows by `step` millijoules at each reading."""

    NVMLError = RuntimeError

    def __init__(self, step: int, *, counts: bool = True) -> None:
        super().__init__(step=step, counts=counts, reading=1_000_000, uuids=[])
        self.__spec__ = object()  # find_spec reads it

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.uuids.append(uuid)
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        if not self.counts:
            raise self.NVMLError("not supported")
        self.reading += self.step
        return int(self.reading)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(nvml: FakeNvml) -> FakeNvml:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="12-ab")
        )
        return nvml

    return install


def test_energy_is_the_difference_of_two_readings_in_joules(gpu: Any) -> None:
    nvml = gpu(FakeNvml(step=2500))
    assert energy.start_meter().joules() == 2.5
    assert nvml.uuids == ["GPU-12-ab"]


def test_a_reset_counter_gives_no_energy(gpu: Any) -> None:
    gpu(FakeNvml(step=-2500))
    assert energy.start_meter().joules() is None


def test_a_gpu_without_a_counter_gives_no_energy(gpu: Any) -> None:
    gpu(FakeNvml(step=1, counts=False))
    assert energy.start_meter().joules() is None


def test_a_gpu_whose_counter_fails_gives_no_energy(gpu: Any) -> None:
    nvml = gpu(FakeNvml(step=1))
    meter = energy.start_meter()
    nvml.counts = False
    assert meter.joules() is None


def test_a_run_of_several_processes_has_no_energy(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(FakeNvml(step=2500))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert energy.start_meter().joules() is None


def test_without_nvidia_ml_py_or_a_gpu_there_is_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert energy.start_meter().joules() is None
    monkeypatch.setattr(energy, "find_spec", lambda name: None)
    assert energy.start_meter().joules() is None
