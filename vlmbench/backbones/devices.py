"""Work between the processor and the GPU: copies, preparation ahead of time, GPU errors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from vlmbench.backbones.batches import Batch
from vlmbench.types import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

NUM_AHEAD = 32  # images that are ready or in preparation before the tower takes them
NO_MEMORY = "can't allocate memory"  # how torch words it without a GPU
LOST = ("CUDA error", "CUDA driver", "NCCL error", "cuDNN error", "CUBLAS_STATUS")


class FullMemoryError(UserError):
    """The GPU's memory is full; a smaller batch may fit."""


@contextmanager
def explain_gpu_errors(location: Callable[[], str], *, full: str) -> Iterator[None]:
    """Turn the errors of a GPU, and of a full memory, into a UserError.

    `location()` names the step that failed. `full` follows the words "the GPU's memory is full": it
    says with which settings, and which setting to lower.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise FullMemoryError(f"{location()}: the GPU's memory is full {full} ({error})") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or NO_MEMORY in str(error):
            raise UserError(f"{location()}: the machine's memory is full {full}") from error
        if not any(words in str(error) for words in LOST):
            raise

        reason = str(error).splitlines()[0]
        raise UserError(
            f"{location()}: the GPU failed or is gone ({reason}); look at nvidia-smi and at the "
            "system's log, then start the same command again: it continues from the last checkpoint"
        ) from error


def prefetch(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Return `function` of each item in order. Several threads work ahead of the caller."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(_workers().submit(function, item))
        if len(waiting) > NUM_AHEAD:
            yield waiting.popleft().result()

    while waiting:
        yield waiting.popleft().result()


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="images")


def to_device(batch: Batch, model: Any) -> Batch:
    """Return the batch on the model's device."""
    device = next(model.parameters()).device
    return {name: _move(value, device) for name, value in batch.items()}


def _move(value: Any, device: Any) -> Any:
    if isinstance(value, list):
        return [_move(item, device) for item in value]
    if not hasattr(value, "to"):
        return value

    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()  # otherwise the copy waits for all queued work
    return value.to(device, non_blocking=True)


def release_cache(model: Any) -> None:
    """Give memory that PyTorch keeps for later back to the GPU, such as after other work."""
    import torch

    if next(model.parameters()).device.type == "cuda":
        torch.cuda.empty_cache()


def pin_memory(batch: Batch, model: Any) -> Batch:
    """Return the batch in pinned memory if the model is on a GPU: its copies do not block."""
    if next(model.parameters()).device.type != "cuda":
        return dict(batch)

    return {
        name: value.pin_memory() if hasattr(value, "pin_memory") else value
        for name, value in batch.items()
    }
