"""Changes of a layer's adapter."""

from __future__ import annotations

from typing import Any

import torch


def add_dropout(layer: Any) -> None:
    layer.lora_dropout["default"] = torch.nn.Dropout(0.5)


def switch_off(layer: Any) -> None:
    layer.enable_adapters(False)


def merge(layer: Any) -> None:
    layer.merge()


CHANGES = [None, add_dropout, switch_off, merge]  # of a layer's adapter
