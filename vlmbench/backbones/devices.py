"""Work between the processor and the GPU: copies, preparation ahead of time, GPU errors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeVar

from vlmbench.backbones.batches import Batch
from vlmbench.system.threads import map_ahead
from vlmbench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

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
    return map_ahead(function, items, ahead=NUM_AHEAD)


def in_lanes(
    function: Callable[[Item], Tensor], items: Iterable[Item], *, lanes: int, device: Any
) -> Iterator[Tensor]:
    """Return `function` of each item in order. A GPU works on `lanes` of them at once.

    Each item is computed alone, so its numbers do not depend on the others.
    """
    import torch

    if device.type != "cuda" or lanes == 1:
        yield from map(function, items)
        return

    waiting: deque[tuple[Tensor, Any]] = deque()
    for item, stream in zip(items, cycle(_streams(device, lanes)), strict=False):
        stream.wait_stream(torch.cuda.current_stream())  # it may have freed memory
        with torch.cuda.stream(stream):
            waiting.append((function(item), stream.record_event()))
        if len(waiting) == lanes:
            yield _arrived(*waiting.popleft())
    while waiting:
        yield _arrived(*waiting.popleft())


def _arrived(tensor: Tensor, event: Any) -> Tensor:
    """Return a tensor of another stream, which the current one then waits for."""
    import torch

    stream = torch.cuda.current_stream()
    stream.wait_event(event)
    tensor.record_stream(stream)
    return tensor


@cache
def _streams(device: Any, number: int) -> list[Any]:
    """Return the same streams at each call: a recording belongs to one."""
    import torch

    return [torch.cuda.Stream(device) for _ in range(number)]


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
