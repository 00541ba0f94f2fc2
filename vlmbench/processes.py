"""One run in several processes, as torchrun or accelerate start them: the first leads, the others follow.

All of them train. What else a run does (make the data, choose, write, evaluate, report) the leader does alone. Each
process sees one GPU, its own, as if there were no other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vlmbench.types import UserError

if TYPE_CHECKING:
    from accelerate import PartialState

Value = TypeVar("Value")

PATIENCE = timedelta(hours=12)  # for a leader that makes data or encodes pictures


def count() -> int:
    """How many processes this run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_leader() -> bool:
    """Whether this process does what only one may do."""
    return os.environ.get("RANK", "0") == "0"


def take_own_card() -> None:
    """Hide all GPUs of this host but the process's own, before one is used: of a run of one process the first. With
    several in sight transformers would share each batch out among them, in threads, and train other steps.

    Raises UserError where CUDA_VISIBLE_DEVICES names fewer GPUs than there are processes here.
    """
    number, visible = int(os.environ.get("LOCAL_RANK", "0")), os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = [str(card) for card in range(number + 1)] if visible is None else visible.split(",")
    if number >= len(cards):
        raise UserError(
            f"CUDA_VISIBLE_DEVICES={visible}: process {number + 1} of this host finds no GPU of its own; start as many "
            "processes as there are GPUs (torchrun --nproc-per-node)"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = cards[number]
    if "LOCAL_RANK" in os.environ:
        os.environ["LOCAL_RANK"] = "0"


@contextmanager
def leader_first() -> Iterator[None]:
    """The leader's block ends before those of the others begin."""
    if count() == 1:
        yield
        return
    with _state().main_process_first():
        yield


def from_leader(make: Callable[[], Value]) -> Value:
    """What `make()` gives in the leader, in every process."""
    if count() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    _state()
    values = [make() if is_leader() else None]
    broadcast_object_list(values)
    return cast("Value", values[0])


def any_of(own: bool) -> bool:
    """Whether it holds in any process; each of them asks at the same place."""
    return sum_of(int(own)) > 0


def sum_of(own: int) -> int:
    """The sum of every process's number; each of them asks at the same place. Among processors: nothing waits for what
    a GPU has to do."""
    if count() == 1:
        return own
    import torch
    from torch.distributed import all_reduce

    total = torch.tensor(own)
    all_reduce(total, group=_processors())
    return int(total)


@cache
def _processors() -> Any:
    from torch.distributed import new_group

    _state()
    return new_group(backend="gloo", timeout=PATIENCE)


def _state() -> PartialState:
    import torch
    from accelerate import PartialState

    # Without a GPU and without being told so, it takes each process for the only one.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
