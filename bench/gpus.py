"""Run measurements in processes of their own: on several GPUs at once, each on its own GPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_on_gpus(
    run: Callable[[Item, dict[str, str]], Result], items: Sequence[Item]
) -> tuple[list[Result], int]:
    """Return `run(item, environment)` of every item in order, and how many ran at once.

    A process with that environment sees one GPU only.
    """
    gpus = _visible_gpus()
    free_gpus: SimpleQueue[str] = SimpleQueue()
    for gpu in gpus:
        free_gpus.put(gpu)

    def run_on_free_gpu(item: Item) -> Result:
        gpu = free_gpus.get()
        try:
            return run(item, _environment(gpu))
        finally:
            free_gpus.put(gpu)

    with ThreadPoolExecutor(len(gpus)) as pool:
        results = list(pool.map(run_on_free_gpu, items))
    return results, min(len(gpus), len(items))


def _visible_gpus() -> list[str]:
    """Return the GPUs as CUDA_VISIBLE_DEVICES names them; one empty name without a GPU."""
    import torch

    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    return [str(gpu) for gpu in range(torch.cuda.device_count())] or [""]


def _environment(gpu: str) -> dict[str, str]:
    # Unsloth writes the modules that it compiles into one folder, which two processes cannot share.
    folder = Path(tempfile.gettempdir()) / f"bench-{gpu or 'cpu'}" / "unsloth_compiled_cache"
    visible = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
    return {**os.environ, **visible, "UNSLOTH_COMPILE_LOCATION": str(folder)}
