"""What a GPU does to a run: its memory is full, or it is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vlmbench.types import UserError

LOST = ("CUDA error", "CUDA driver", "NCCL error", "cuDNN error", "CUBLAS_STATUS")


class FullMemoryError(UserError):
    """The GPU's memory is full; less at once may fit."""


@contextmanager
def naming_faults(place: Callable[[], str], *, full: str) -> Iterator[None]:
    """Make a GPU's errors a UserError: at what `place`, and with what its memory
    is `full` and what to lower."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise FullMemoryError(f"{place()}: the GPU's memory is full {full} ({error})") from error
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST):
            raise
        raise UserError(
            f"{place()}: the GPU is gone or failed ({str(error).splitlines()[0]}); look at nvidia-smi and the system's "
            "log, then start the same command again: it goes on from the last checkpoint"
        ) from error
