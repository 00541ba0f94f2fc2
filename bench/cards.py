"""Sides that are compared run in processes of their own: where there are several GPUs, at once, one on each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

Side = TypeVar("Side")
Result = TypeVar("Result")


def on_cards(run: Callable[[Side, dict[str, str]], Result], sides: Sequence[Side]) -> tuple[list[Result], int]:
    """`run(side, environment)` of every side, in which a process sees one GPU only, and how many ran at once."""
    cards = _visible()
    free: SimpleQueue[str] = SimpleQueue()
    for card in cards:
        free.put(card)

    def one(side: Side) -> Result:
        card = free.get()
        try:
            return run(side, _environment(card))
        finally:
            free.put(card)

    with ThreadPoolExecutor(len(cards)) as pool:
        return list(pool.map(one, sides)), min(len(cards), len(sides))


def _visible() -> list[str]:
    """The GPUs' names as CUDA_VISIBLE_DEVICES has them; one empty name where there is none."""
    import torch

    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    return [str(card) for card in range(torch.cuda.device_count())] or [""]


def _environment(card: str) -> dict[str, str]:
    # Unsloth writes the modules that it compiles into one folder: not two processes at a time.
    compiled = Path(tempfile.gettempdir()) / f"bench-{card or 'cpu'}" / "unsloth_compiled_cache"
    seen = {"CUDA_VISIBLE_DEVICES": card} if card else {}
    return {**os.environ, **seen, "UNSLOTH_COMPILE_LOCATION": str(compiled)}
