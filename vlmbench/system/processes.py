"""A run in several processes, as torchrun or accelerate start them: one leader and its followers.

All processes train. The leader alone makes the data, selects records, writes, evaluates and
reports. Each process sees one GPU, its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from vlmbench.types import UserError

if TYPE_CHECKING:
    from accelerate import PartialState

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")

PATIENCE = timedelta(hours=12)  # followers wait so long for a leader that makes data
# Variables of torchrun. Scripts and notebooks may leave them in the environment of one process.
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Names of the rank and of the number of processes in other launchers.
LAUNCHERS = (
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)
# How torch words the end of another process.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection was")


def count() -> int:
    """Return the number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE") or "1")


def is_leader() -> bool:
    """Return whether this process is the leader."""
    return count() == 1 or os.environ.get("RANK", "0") == "0"


def refuse_stray_ranks() -> None:
    """Raise UserError if the environment speaks of several processes that no launcher started.

    This process would wait for the others for hours. Variables of a run of one process are removed.
    """
    given = {name: os.environ[name] for name in RANKS if os.environ.get(name)}
    world = given.get("WORLD_SIZE", "1")

    if world == "1":
        for name in RANKS:
            os.environ.pop(name, None)
        return

    is_from_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    ranks = (given.get("RANK"), world)
    is_launched = is_from_torchrun or any(
        ranks == (os.environ.get(rank), os.environ.get(number)) for rank, number in LAUNCHERS
    )
    is_number = all(value.isdecimal() for value in ranks if value is not None)
    if is_launched and is_number and {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= given.keys():
        return

    number = world if world.isdecimal() and world != "0" else "2"
    raise UserError(
        f"WORLD_SIZE={world} is set in the environment, but no launcher started this process; "
        f"run unset {' '.join(given)} for one process, "
        f"or start several with torchrun --nproc-per-node={number} -m vlmbench"
    )


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Raise UserError if another process of the run ended while this one waited for it."""
    try:
        yield
    except RuntimeError as error:
        if count() == 1 or not any(words in str(error) for words in LOST):
            raise
        raise UserError(
            f"another of the {count()} processes of this run ended; look for its message above; "
            "the same command resumes from the last checkpoint"
        ) from error


def let_idle_threads_sleep() -> None:
    """Stop OpenMP's idle threads from spinning on a machine without an NVIDIA GPU.

    With one other busy core, ten training steps of `smol` took 50 s; without spinning, the whole
    command took 34 s. Call this before torch is imported. The user's own values stay.
    """
    if not Path("/dev/nvidia0").exists():
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("GOMP_SPINCOUNT", "0")


def let_memory_grow() -> None:
    """Let PyTorch's pieces of GPU memory grow, so that less of it lies unused between them.

    A training that encodes images between its steps had 4.7 of 80 GB lying unused, and ran out of
    memory. Call this before torch is imported. The user's own value stays.
    """
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def use_own_gpu() -> None:
    """Hide all GPUs of this host except this process's own. Call it before torch sees a GPU.

    A run of one process uses the first GPU. With several visible GPUs, transformers would split
    each batch among them in threads, and the training steps would differ.

    Raise UserError if CUDA_VISIBLE_DEVICES names fewer GPUs than this host has processes.
    """
    number = int(os.environ.get("LOCAL_RANK", "0"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(gpu) for gpu in range(number + 1)] if visible is None else visible.split(",")

    if number >= len(gpus):
        raise UserError(
            f"CUDA_VISIBLE_DEVICES={visible}: process {number + 1} of this host has no GPU; "
            f"start at most one process for each GPU: torchrun --nproc-per-node={len(gpus)}"
        )

    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number]
    if "LOCAL_RANK" in os.environ:
        os.environ["LOCAL_RANK"] = "0"


@contextmanager
def leader_first() -> Iterator[None]:
    """Run the block in the leader first, then in the followers."""
    if count() == 1:
        yield
        return

    with _state().main_process_first():
        yield


def from_leader(make: Callable[Arguments, Value]) -> Callable[Arguments, Value]:
    """Decorate a function: only the leader calls it, and every process gets its value."""

    @wraps(make)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
        if count() == 1:
            return make(*args, **kwargs)

        from accelerate.utils import broadcast_object_list

        _state()
        values = [make(*args, **kwargs) if is_leader() else None]
        broadcast_object_list(values)

        return cast("Value", values[0])

    return wrapped


def any_process(own: bool) -> bool:
    """Return whether `own` is true in any process. Every process must call it at the same point."""
    return sum_over_processes(int(own)) > 0


def sum_over_processes(own: int) -> int:
    """Return the sum of every process's `own`. Every process must call it at the same point.

    The sum goes through the CPUs, so that no process waits for the work of its GPU.
    """
    if count() == 1:
        return own

    import torch
    from torch.distributed import all_reduce

    total = torch.tensor(own)
    all_reduce(total, group=_cpu_group())

    return int(total)


@cache
def _cpu_group() -> Any:
    from torch.distributed import new_group

    _state()
    return new_group(backend="gloo", timeout=PATIENCE)


def _state() -> PartialState:
    import torch
    from accelerate import PartialState

    if not torch.cuda.is_available():
        # accelerate would call it cpu:0, where torch.load cannot restore an optimiser's state.
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
    # Without a GPU, accelerate needs `cpu=True` to see the other processes.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
