"""A picture is encoded once, and never served with another's tokens."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.conftest import picture
from vlmbench.backbones.base import keyed
from vlmbench.config import StoreConfig
from vlmbench.data.pictures import Picture
from vlmbench.features import disk
from vlmbench.features.memory import MemoryLevel, PinnedMemory
from vlmbench.features.store import TokenStore, refuse_trainable
from vlmbench.types import UserError

CPU = torch.device("cpu")
ENTRY = 3 * 4  # bytes of a picture's tokens


class Encoder:
    """Counts its calls; the tokens are the picture's mean colour."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, some: Sequence[Picture]) -> list[torch.Tensor]:
        self.calls += len(some)
        return [self.of(one.image) for one in some]

    @staticmethod
    def of(image: Image.Image) -> torch.Tensor:
        return torch.tensor(image.resize((1, 1)).getpixel((0, 0)), dtype=torch.float32)


def store(folder: Path, fingerprint: str = "f", **settings: Any) -> TokenStore:
    return TokenStore(folder, fingerprint, device=CPU, settings=StoreConfig(**settings))


def pictures(*seeds: int) -> list[Any]:
    return [keyed(picture(seed)) for seed in seeds]


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def get(folder: Path, *seeds: int, **settings: Any) -> tuple[list[torch.Tensor], int]:
    """What a store of its own gives, everything written; and how many pictures it encoded."""
    encode, one = Encoder(), store(folder, **settings)
    tokens = one.get(pictures(*seeds), encode)
    one.close()
    return tokens, encode.calls


def test_each_picture_is_encoded_once_and_kept_for_later_processes(tmp_path: Path) -> None:
    first, calls = get(tmp_path, 0, 1, 0)
    assert calls == 2
    assert torch.equal(first[0], first[2])
    later, calls = get(tmp_path, 1)
    assert calls == 0
    assert torch.equal(later[0], first[1])


def test_another_fingerprint_shares_nothing(tmp_path: Path) -> None:
    encode = Encoder()
    for fingerprint in ("f", "g"):
        one = store(tmp_path, fingerprint)
        one.get(pictures(0), encode)
        one.close()
    assert encode.calls == 2


def test_pixels_in_another_shape_are_another_picture(tmp_path: Path) -> None:
    encode = Encoder()
    wide, tall = Image.new("RGB", (4, 2), "red"), Image.new("RGB", (2, 4), "red")
    store(tmp_path).get([keyed(wide), keyed(tall)], encode)
    assert encode.calls == 2


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not tokens"),
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        lambda path: path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}"),
    ],
    ids=["flipped", "empty", "text", "cut", "absurd header"],
)
def test_a_damaged_entry_is_reported_and_encoded_again(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    expected, _ = get(tmp_path, 0)
    (entry,) = entries(tmp_path)
    damage(entry)
    for encoded in (1, 0):
        tokens, calls = get(tmp_path, 0)
        assert torch.equal(tokens[0], expected[0])
        assert calls == encoded
    (message,) = caplog.messages
    assert str(entry) in message
    assert "encoded again" in message


def test_an_entry_under_another_pictures_name_is_not_served(tmp_path: Path) -> None:
    get(tmp_path, 0)
    (zero,) = entries(tmp_path)
    get(tmp_path, 1)
    (one,) = set(entries(tmp_path)) - {zero}
    zero.write_bytes(one.read_bytes())
    tokens, calls = get(tmp_path, 0)
    assert calls == 1
    assert torch.equal(tokens[0], Encoder.of(picture(0)))


def in_processes(number: int, work: Callable[[], None]) -> list[int]:
    """Exit codes of so many forks of this process that do the work at once."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work) for _ in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_eight_processes_may_write_and_read_at_once(tmp_path: Path) -> None:
    seeds = range(24)
    expected = [Encoder.of(picture(seed)) for seed in seeds]

    def work() -> None:
        for _ in range(3):
            tokens, _ = get(tmp_path, *seeds)
            assert all(torch.equal(one, other) for one, other in zip(tokens, expected, strict=True))

    assert in_processes(8, work) == [0] * 8
    assert len(entries(tmp_path)) == len(seeds)
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_writer_that_is_killed_leaves_nothing_that_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = disk.save_file

    def half(tensors: Any, path: Path, metadata: Any) -> None:
        save(tensors, path, metadata=metadata)
        path.write_bytes(path.read_bytes()[:-6])
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(disk, "save_file", half)
    assert in_processes(1, lambda: get(tmp_path, 0)) == [-signal.SIGKILL]
    monkeypatch.undo()
    (left,) = tmp_path.rglob("*.unfinished")
    tokens, calls = get(tmp_path, 0)
    assert calls == 1
    assert torch.equal(tokens[0], Encoder.of(picture(0)))
    assert left.exists()  # another process may still be writing it
    os.utime(left, (time.time() - 2 * disk.ABANDONED,) * 2)
    get(tmp_path, 1)
    assert not left.exists()


@pytest.mark.parametrize("when", ["writing", "making the folder"])
def test_a_full_disk_costs_the_keeping_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    save = disk.save_file

    def full(*args: Any, **kwargs: Any) -> None:
        if when == "writing":
            save(*args, **kwargs)
            args[1].write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if when == "writing":
        monkeypatch.setattr(disk, "save_file", full)
    else:
        monkeypatch.setattr(disk.tempfile, "mkstemp", full)
    tokens, calls = get(tmp_path, 0, 1, 2)
    assert calls == 3
    assert torch.equal(tokens[1], Encoder.of(picture(1)))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    (message,) = caplog.messages
    assert "No space left on device" in message
    assert "make room" in message


def test_the_least_recently_used_leave_the_disk_first(tmp_path: Path) -> None:
    get(tmp_path, 0)
    (entry,) = entries(tmp_path)
    room = 5.5 * entry.stat().st_size
    get(tmp_path, 1, 2, 3, 4)
    for age, seed in enumerate((3, 1, 0, 2, 4)):  # the oldest last
        for path in tmp_path.rglob(f"{pictures(seed)[0].key}*"):
            os.utime(path, (time.time() - 100 * (age + 1),) * 2)
    get(tmp_path, 4, disk_gb=room / 1e9)  # used again just now
    get(tmp_path, 5, disk_gb=room / 1e9)
    kept = {path.stem for path in entries(tmp_path)}
    assert kept == {one.key for one in pictures(0, 1, 3, 4, 5)} - {pictures(0)[0].key}


def test_nothing_is_written_without_a_budget(tmp_path: Path) -> None:
    get(tmp_path, 0, disk_gb=0)
    assert not list(tmp_path.iterdir())


def test_what_earlier_runs_used_last_stays_longest() -> None:
    level = MemoryLevel(2 * ENTRY)
    a, b, c = (torch.full((3,), float(number)) for number in range(3))
    level.put("a", a)
    level.put("b", b)
    assert level.get("a") is a
    level.begin_run()
    level.put("c", c)
    assert level.get("b") is None
    assert level.get("a") is a
    assert level.get("c") is c
    assert level.num_bytes == 2 * ENTRY


def test_what_a_run_uses_is_not_pushed_out_by_what_it_uses_once_an_epoch() -> None:
    level, rng, found = MemoryLevel(71 * ENTRY), random.Random(0), []
    for _ in range(5):
        found.append(0)
        for number in rng.sample(range(100), 100):
            found[-1] += level.get(str(number)) is not None
            level.put(str(number), torch.zeros(3))
    assert found == [0, 71, 71, 71, 71]


def test_what_is_larger_than_the_memory_is_not_kept() -> None:
    level = MemoryLevel(ENTRY)
    level.put("a", torch.zeros(3))
    level.begin_run()
    level.put("b", torch.ones(4))
    assert level.get("b") is None
    assert level.get("a") is not None


def test_a_place_in_pinned_memory_is_free_when_nobody_holds_its_tensor() -> None:
    memory = PinnedMemory(None, slab=256)
    tensors = [memory.copy(torch.full((2, 5), float(number))) for number in range(3)]
    assert [int(tensor[1, 4]) for tensor in tensors] == [0, 1, 2]
    assert len({tensor.data_ptr() for tensor in tensors}) == 3
    place = tensors.pop(1).data_ptr()
    tensors += [memory.copy(torch.full((2, 5), float(number))) for number in (3, 4)]
    assert [int(tensor[1, 4]) for tensor in tensors] == [0, 2, 3, 4]
    assert place == tensors[3].data_ptr()
    assert memory.num_bytes == 256  # four places of 40 bytes, at multiples of 64
    assert memory.copy(torch.zeros(7, dtype=torch.bfloat16)).dtype is torch.bfloat16
    assert memory.num_bytes == 512


class Stream:
    """Says when somebody waits for what it was to read."""

    def __init__(self) -> None:
        self.waited = 0

    def record_event(self) -> Stream:
        return self

    def synchronize(self) -> None:
        self.waited += 1


def test_a_place_is_written_again_only_after_the_gpu_has_read_it() -> None:
    memory = PinnedMemory(None, slab=64)
    tensor = memory.copy(torch.zeros(3))
    stream = memory._stream = Stream()
    place = tensor.data_ptr()
    del tensor
    assert stream.waited == 0
    assert memory.copy(torch.ones(3)).data_ptr() == place
    assert stream.waited == 1


def test_several_threads_copy_to_pinned_memory_at_once() -> None:
    memory = PinnedMemory(None, slab=64 * 4)

    def copy(number: int) -> bool:
        tensor = memory.copy(torch.full((3,), float(number)))
        time.sleep(0.001)
        return torch.equal(tensor, torch.full((3,), float(number)))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(copy, range(400)))
    assert memory.num_bytes <= 64 * 8  # places for eight at once


def test_out_of_memory_the_disk_serves(tmp_path: Path) -> None:
    encode, one = Encoder(), store(tmp_path, device_gb=ENTRY / 1e9)
    for _ in range(2):
        tokens = one.get(pictures(0, 1, 2), encode)
        one.close()
    assert encode.calls == 3
    assert torch.equal(tokens[2], Encoder.of(picture(2)))
    assert one.found == Counter(encoded=3, device=1, disk=2)


def test_files_are_read_when_the_tokens_are_waited_for_at_the_latest(tmp_path: Path) -> None:
    expected, _ = get(tmp_path, 0, 1)
    encode, one = Encoder(), store(tmp_path)
    fetched = one.fetch(pictures(0, 1, 0), encode)
    assert fetched.lengths == [3, 3, 3]
    assert all(torch.equal(*pair) for pair in zip(fetched.wait(), [*expected, expected[0]], strict=True))
    assert (encode.calls, one.found) == (0, Counter(disk=2))


def test_an_entry_that_another_process_removes_is_encoded_again(tmp_path: Path) -> None:
    encode, one = Encoder(), store(tmp_path, device_gb=0)
    one.get(pictures(0), encode)
    one.close()
    (entry,) = entries(tmp_path)
    entry.unlink()
    assert torch.equal(one.get(pictures(0), encode)[0], Encoder.of(picture(0)))
    assert (encode.calls, one.found) == (2, Counter(encoded=2))


def test_stored_tokens_of_another_shape_are_an_error_that_heals(tmp_path: Path) -> None:
    get(tmp_path, 0)
    (entry,) = entries(tmp_path)
    save_file({disk.TENSOR: torch.zeros(4)}, entry, metadata={disk.CHECKSUM: "forged"})
    one = store(tmp_path)
    with pytest.raises(UserError, match=r"of shape \(4,\) instead of \(3,\).*start the run again"):
        one.get(pictures(0), Encoder())
    one.close()
    tokens, calls = get(tmp_path, 0)
    assert (calls, tokens[0].tolist()) == (0, Encoder.of(picture(0)).tolist())


def test_a_run_whose_tokens_fill_the_disks_budget_says_so_once_and_keeps_what_it_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    get(tmp_path, 0)
    (entry,) = entries(tmp_path)
    os.utime(entry, (time.time() - 100,) * 2)
    size = entry.stat().st_size
    get(tmp_path, 1, 2, 3, 4, disk_gb=2.5 * size / 1e9)
    kept = {path.stem for path in entries(tmp_path)}
    assert kept == {one.key for one in pictures(1, 2)}
    (message,) = caplog.messages
    assert "raise store.disk_gb" in message


def test_a_picture_is_not_opened_where_its_tokens_are_kept(tmp_path: Path) -> None:
    loads = []

    def load() -> Image.Image:
        loads.append(1)
        return picture(0)

    for _ in range(3):
        one = Picture(load, place=str(tmp_path))
        kept = store(tmp_path)
        assert len(kept.get([one], Encoder())) == 1
        kept.close()
        assert (one.key, one.size) == (keyed(picture(0)).key, picture(0).size)
    assert len(loads) == 1


def test_parts_that_train_are_refused_by_name() -> None:
    tower = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"Linear\.weight trains.*store.enabled=false or trainer.vision=frozen"):
        refuse_trainable(tower)
    refuse_trainable(tower.requires_grad_(False))


def test_where_tokens_were_found_is_reported_once(tmp_path: Path) -> None:
    one = store(tmp_path)
    assert one.report() == "no picture was looked up"
    one.get(pictures(0, 1, 0, 0), Encoder())
    one.get(pictures(1, 2), Encoder())
    assert one.report() == "4 look-ups: 25.0% on the device, 75.0% encoded"
    assert one.report() == "no picture was looked up"


def test_what_is_larger_than_the_disks_budget_is_not_written(tmp_path: Path) -> None:
    get(tmp_path, 0, disk_gb=(ENTRY - 1) / 1e9)
    assert not entries(tmp_path)


def test_kept_tokens_do_not_hold_what_they_were_cut_from(tmp_path: Path) -> None:
    (tokens,) = store(tmp_path).get(pictures(0), lambda some: [torch.arange(100.0)[10:13] for _ in some])
    assert tokens.tolist() == [10, 11, 12]
    assert tokens.untyped_storage().nbytes() == ENTRY
