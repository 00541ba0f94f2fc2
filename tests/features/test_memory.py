"""The store's levels in memory, and the slots of pinned memory."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from vlmbench.features.memory import MemoryLevel, PinnedMemory

ENTRY = 3 * 4  # bytes of a tensor of three numbers


def test_what_earlier_runs_used_last_stays_longest() -> None:
    level = MemoryLevel(2 * ENTRY)
    first, second, third = (torch.full((3,), float(number)) for number in range(3))
    level.put("first", first)
    level.put("second", second)
    assert level.get("first") is first

    level.begin_run()
    level.put("third", third)
    assert level.get("second") is None
    assert level.get("first") is first
    assert level.get("third") is third
    assert level.num_bytes == 2 * ENTRY


def test_what_a_run_uses_is_not_pushed_out_by_what_it_uses_once_an_epoch() -> None:
    level, rng = MemoryLevel(71 * ENTRY), random.Random(0)
    hits_by_epoch = []
    for _ in range(5):
        hits = 0
        for number in rng.sample(range(100), 100):
            hits += level.get(str(number)) is not None
            level.put(str(number), torch.zeros(3))
        hits_by_epoch.append(hits)
    assert hits_by_epoch == [0, 71, 71, 71, 71]


def test_what_is_larger_than_the_memory_is_not_kept() -> None:
    level = MemoryLevel(ENTRY)
    level.put("small", torch.zeros(3))
    level.begin_run()
    level.put("large", torch.ones(4))
    assert level.get("large") is None
    assert level.get("small") is not None


def test_a_slot_in_pinned_memory_is_free_when_nobody_holds_its_tensor() -> None:
    memory = PinnedMemory(None, slab=256)
    tensors = [memory.copy(torch.full((2, 5), float(number))) for number in range(3)]
    assert [int(tensor[1, 4]) for tensor in tensors] == [0, 1, 2]
    assert len({tensor.data_ptr() for tensor in tensors}) == 3

    freed = tensors.pop(1).data_ptr()
    tensors += [memory.copy(torch.full((2, 5), float(number))) for number in (3, 4)]
    assert [int(tensor[1, 4]) for tensor in tensors] == [0, 2, 3, 4]
    assert tensors[3].data_ptr() == freed
    assert memory.num_bytes == 256  # four slots of 40 bytes, at multiples of 64

    assert memory.copy(torch.zeros(7, dtype=torch.bfloat16)).dtype is torch.bfloat16
    assert memory.num_bytes == 512


class FakeStream:
    """Count how often somebody waits for its reads."""

    def __init__(self) -> None:
        self.num_waits = 0

    def record_event(self) -> FakeStream:
        return self

    def synchronize(self) -> None:
        self.num_waits += 1


def test_a_slot_is_written_again_only_after_the_gpu_has_read_it() -> None:
    memory = PinnedMemory(None, slab=64)
    tensor = memory.copy(torch.zeros(3))
    stream = memory._stream = FakeStream()
    slot = tensor.data_ptr()

    del tensor
    assert stream.num_waits == 0
    assert memory.copy(torch.ones(3)).data_ptr() == slot
    assert stream.num_waits == 1


def test_several_threads_copy_to_pinned_memory_at_once() -> None:
    memory = PinnedMemory(None, slab=64 * 4)

    def copy_is_right(number: int) -> bool:
        tensor = memory.copy(torch.full((3,), float(number)))
        time.sleep(0.001)
        return torch.equal(tensor, torch.full((3,), float(number)))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(copy_is_right, range(400)))
    assert memory.num_bytes <= 64 * 8  # slots for eight at once
