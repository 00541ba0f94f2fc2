"""Time a training from its log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """A tracker that keeps the time and the loss of each logged step."""

    def __init__(self) -> None:
        self.times: list[tuple[int, float]] = []
        self.losses: list[float] = []

    def log(self, row: dict[str, float]) -> None:
        if "loss" not in row:
            return
        self.times.append((int(row["step"]), time.monotonic()))
        self.losses.append(row["loss"])

        if len(self.times) > 1:  # printed at once: a benchmark that is stopped has shown its speed
            (step_before, time_before), (step, now) = self.times[-2:]
            speed = (step - step_before) / (now - time_before)
            print(f"\nstep {step}: {speed:.3f} steps a second", flush=True)

    def rate(self, batch: int, warmup: int) -> float | None:
        """Return the samples a second after `warmup` steps; None if too few steps were logged."""
        after_warmup = [(step, moment) for step, moment in self.times if step >= warmup]
        if len(after_warmup) < 2:
            return None

        (first_step, first_time), (last_step, last_time) = after_warmup[0], after_warmup[-1]
        return batch * (last_step - first_step) / (last_time - first_time)


def time_training(
    recipe: str, train: Callable[[], Any], watch: Stopwatch, *, batch: int, warmup: int
) -> dict[str, Any]:
    """Train; return speed, memory and losses, or the error if the memory is full."""
    import torch

    from vlmbench.types import UserError

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()

    # "side" is the key of the recorded results, which the documentation reads.
    row: dict[str, Any] = {"side": recipe, "batch": batch, "error": None}
    try:
        train()
    except (torch.OutOfMemoryError, UserError) as error:  # vlmbench explains it as a UserError
        row["error"] = str(error).splitlines()[0][:200]
        del error
        torch.cuda.empty_cache()

    memory = torch.cuda.memory_stats() if torch.cuda.is_available() else {}
    losses: list[float | None] = [*watch.losses] or [None]
    return row | {
        "samples_per_s": None if row["error"] else watch.rate(batch, warmup),
        "peak_gb": memory["allocated_bytes.all.peak"] / 1e9 if memory else None,
        # How often PyTorch returned its whole cache to the GPU to make room.
        "alloc_retries": memory.get("num_alloc_retries"),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "steps": len(watch.losses),
    }
