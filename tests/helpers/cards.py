"""Cards that tests play on a machine without a GPU."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

Card = tuple[str, tuple[int, int]]  # name, compute capability

T4: Card = ("Tesla T4", (7, 5))
V100: Card = ("Tesla V100-SXM2-16GB", (7, 0))
P100: Card = ("Tesla P100-PCIE-16GB", (6, 0))
A100: Card = ("NVIDIA A100-SXM4-40GB", (8, 0))


def play_card(monkeypatch: pytest.MonkeyPatch, card: Card | None, *, gigabytes: int = 16) -> None:
    """Let torch see a GPU with this name and compute capability, unless the shell hides it.

    With None, torch sees none.
    """
    if card is None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        return

    name, capability = card
    properties = SimpleNamespace(
        name=name,
        major=capability[0],
        minor=capability[1],
        total_memory=gigabytes * 10**9,
        uuid="12-ab",
    )

    def is_available() -> bool:
        return os.environ.get("CUDA_VISIBLE_DEVICES") != ""

    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or capability >= (8, 0)

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=0: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index=0: properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
