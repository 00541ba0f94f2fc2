"""An image is encoded once, and never gets another image's tokens."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.conftest import image
from vlmbench.config import StoreConfig
from vlmbench.features import disk
from vlmbench.features.store import TokenStore, refuse_trainable
from vlmbench.types import LazyImage, UserError

CPU = torch.device("cpu")
ENTRY = 3 * 4  # bytes of an image's tokens


class Encoder:
    """Count the encoded images. An image's tokens are its mean colour."""

    def __init__(self) -> None:
        self.num_encoded = 0

    def __call__(self, images: Sequence[LazyImage]) -> list[torch.Tensor]:
        self.num_encoded += len(images)
        return [mean_colour(lazy.rgb) for lazy in images]


def mean_colour(pixels: Image.Image) -> torch.Tensor:
    return torch.tensor(pixels.resize((1, 1)).getpixel((0, 0)), dtype=torch.float32)


def make_store(folder: Path, fingerprint: str = "f", **settings: Any) -> TokenStore:
    return TokenStore(folder, fingerprint, device=CPU, settings=StoreConfig(**settings))


def lazy_images(*seeds: int) -> list[LazyImage]:
    return [LazyImage.of(image(seed)) for seed in seeds]


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def get(folder: Path, *seeds: int, **settings: Any) -> tuple[list[torch.Tensor], int]:
    """Return the tokens from a new store, all written to disk, and how many images it encoded."""
    encode, store = Encoder(), make_store(folder, **settings)
    tokens = store.get(lazy_images(*seeds), encode)
    store.close()
    return tokens, encode.num_encoded


def test_each_image_is_encoded_once_and_kept_for_later_processes(tmp_path: Path) -> None:
    first, num_encoded = get(tmp_path, 0, 1, 0)
    assert num_encoded == 2
    assert torch.equal(first[0], first[2])

    later, num_encoded = get(tmp_path, 1)
    assert num_encoded == 0
    assert torch.equal(later[0], first[1])


def test_another_fingerprint_shares_nothing(tmp_path: Path) -> None:
    encode = Encoder()
    for fingerprint in ("f", "g"):
        store = make_store(tmp_path, fingerprint)
        store.get(lazy_images(0), encode)
        store.close()
    assert encode.num_encoded == 2


def test_pixels_in_another_shape_are_another_image(tmp_path: Path) -> None:
    encode = Encoder()
    wide, tall = Image.new("RGB", (4, 2), "red"), Image.new("RGB", (2, 4), "red")
    make_store(tmp_path).get([LazyImage.of(wide), LazyImage.of(tall)], encode)
    assert encode.num_encoded == 2


def flip_a_byte(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 1
    path.write_bytes(bytes(raw))


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

    for expected_number in (1, 0):
        tokens, num_encoded = get(tmp_path, 0)
        assert torch.equal(tokens[0], expected[0])
        assert num_encoded == expected_number
    (message,) = caplog.messages
    assert str(entry) in message
    assert "encoded again" in message


def test_an_entry_under_another_images_name_is_not_served(tmp_path: Path) -> None:
    get(tmp_path, 0)
    (first,) = entries(tmp_path)
    get(tmp_path, 1)
    (second,) = set(entries(tmp_path)) - {first}
    first.write_bytes(second.read_bytes())

    tokens, num_encoded = get(tmp_path, 0)
    assert num_encoded == 1
    assert torch.equal(tokens[0], mean_colour(image(0)))


def run_in_processes(number: int, work: Callable[[], None]) -> list[int]:
    """Return the exit codes of `number` forks of this process that do the work at once."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work) for _ in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_eight_processes_may_write_and_read_at_once(tmp_path: Path) -> None:
    seeds = range(24)
    expected = [mean_colour(image(seed)) for seed in seeds]

    def work() -> None:
        for _ in range(3):
            tokens, _ = get(tmp_path, *seeds)
            assert all(torch.equal(*pair) for pair in zip(tokens, expected, strict=True))

    assert run_in_processes(8, work) == [0] * 8
    assert len(entries(tmp_path)) == len(seeds)
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_writer_that_is_killed_leaves_nothing_that_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = disk.save_file

    def write_half(tensors: Any, path: Path, metadata: Any) -> None:
        save(tensors, path, metadata=metadata)
        path.write_bytes(path.read_bytes()[:-6])
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(disk, "save_file", write_half)
    assert run_in_processes(1, lambda: get(tmp_path, 0)) == [-signal.SIGKILL]
    monkeypatch.undo()

    (unfinished,) = tmp_path.rglob("*.unfinished")
    tokens, num_encoded = get(tmp_path, 0)
    assert num_encoded == 1
    assert torch.equal(tokens[0], mean_colour(image(0)))
    assert unfinished.exists()  # another process may still be writing it

    os.utime(unfinished, (time.time() - 2 * disk.ABANDONED,) * 2)
    get(tmp_path, 1)
    assert not unfinished.exists()


@pytest.mark.parametrize("when", ["writing", "making the folder"])
def test_a_full_disk_costs_the_keeping_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    save = disk.save_file

    def fail(*args: Any, **kwargs: Any) -> None:
        if when == "writing":
            save(*args, **kwargs)
            args[1].write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if when == "writing":
        monkeypatch.setattr(disk, "save_file", fail)
    else:
        monkeypatch.setattr(disk, "make_file", fail)

    tokens, num_encoded = get(tmp_path, 0, 1, 2)
    assert num_encoded == 3
    assert torch.equal(tokens[1], mean_colour(image(1)))
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
        for path in tmp_path.rglob(f"{lazy_images(seed)[0].hash}*"):
            os.utime(path, (time.time() - 100 * (age + 1),) * 2)

    get(tmp_path, 4, disk_gb=room / 1e9)  # used again just now
    get(tmp_path, 5, disk_gb=room / 1e9)
    kept = {path.stem for path in entries(tmp_path)}
    expected = {lazy.hash for lazy in lazy_images(0, 1, 3, 4, 5)} - {lazy_images(0)[0].hash}
    assert kept == expected


def test_nothing_is_written_without_a_budget(tmp_path: Path) -> None:
    get(tmp_path, 0, disk_gb=0)
    assert not list(tmp_path.iterdir())


def test_out_of_memory_the_disk_serves(tmp_path: Path) -> None:
    encode, store = Encoder(), make_store(tmp_path, device_gb=ENTRY / 1e9)
    for _ in range(2):
        tokens = store.get(lazy_images(0, 1, 2), encode)
        store.close()

    assert encode.num_encoded == 3
    assert torch.equal(tokens[2], mean_colour(image(2)))
    assert store.lookups == Counter(encoded=3, device=1, disk=2)


def test_files_are_read_when_the_tokens_are_waited_for_at_the_latest(tmp_path: Path) -> None:
    expected, _ = get(tmp_path, 0, 1)
    encode, store = Encoder(), make_store(tmp_path)
    fetched = store.fetch(lazy_images(0, 1, 0), encode)
    assert fetched.lengths == [3, 3, 3]

    pairs = zip(fetched.wait(), [*expected, expected[0]], strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert encode.num_encoded == 0
    assert store.lookups == Counter(disk=2)


def test_an_entry_that_another_process_removes_is_encoded_again(tmp_path: Path) -> None:
    encode, store = Encoder(), make_store(tmp_path, device_gb=0)
    store.get(lazy_images(0), encode)
    store.close()
    (entry,) = entries(tmp_path)
    entry.unlink()

    assert torch.equal(store.get(lazy_images(0), encode)[0], mean_colour(image(0)))
    assert encode.num_encoded == 2
    assert store.lookups == Counter(encoded=2)


def test_stored_tokens_of_another_shape_are_an_error_that_heals(tmp_path: Path) -> None:
    get(tmp_path, 0)
    (entry,) = entries(tmp_path)
    save_file({disk.TENSOR: torch.zeros(4)}, entry, metadata={disk.CHECKSUM: "forged"})

    store = make_store(tmp_path)
    with pytest.raises(UserError, match=r"of shape \(4,\) instead of \(3,\).*start the run again"):
        store.get(lazy_images(0), Encoder())
    store.close()
    tokens, num_encoded = get(tmp_path, 0)
    assert num_encoded == 0
    assert torch.equal(tokens[0], mean_colour(image(0)))


def test_a_run_whose_tokens_fill_the_disks_budget_says_so_once_and_keeps_what_it_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    get(tmp_path, 0)
    (entry,) = entries(tmp_path)
    os.utime(entry, (time.time() - 100,) * 2)
    size = entry.stat().st_size

    get(tmp_path, 1, 2, 3, 4, disk_gb=2.5 * size / 1e9)
    kept = {path.stem for path in entries(tmp_path)}
    assert len(kept) == 2  # threads write them, so which ones were first is open
    assert kept < {lazy.hash for lazy in lazy_images(1, 2, 3, 4)}
    (message,) = caplog.messages
    assert "raise store.disk_gb" in message


def test_an_image_is_not_opened_where_its_tokens_are_kept(tmp_path: Path) -> None:
    loads = []

    def load() -> Image.Image:
        loads.append(1)
        return image(0)

    for _ in range(3):
        lazy = LazyImage(load, version=str(tmp_path))
        store = make_store(tmp_path)
        assert len(store.get([lazy], Encoder())) == 1
        store.close()
        assert (lazy.hash, lazy.size) == (LazyImage.of(image(0)).hash, image(0).size)
    assert len(loads) == 1


def test_parts_that_train_are_refused_by_name() -> None:
    tower = torch.nn.Linear(2, 2)
    message = r"Linear\.weight trains.*store.enabled=false or trainer.vision=frozen"
    with pytest.raises(UserError, match=message):
        refuse_trainable(tower)
    refuse_trainable(tower.requires_grad_(False))


def test_where_tokens_were_found_is_reported_once(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert store.report() == "no image was looked up"

    store.get(lazy_images(0, 1, 0, 0), Encoder())
    store.get(lazy_images(1, 2), Encoder())
    assert store.report() == "4 look-ups: 25.0% on the device, 75.0% encoded"
    assert store.report() == "no image was looked up"


def test_what_is_larger_than_the_disks_budget_is_not_written(tmp_path: Path) -> None:
    get(tmp_path, 0, disk_gb=(ENTRY - 1) / 1e9)
    assert not entries(tmp_path)


def test_kept_tokens_do_not_hold_what_they_were_cut_from(tmp_path: Path) -> None:
    def cut(images: Sequence[LazyImage]) -> list[torch.Tensor]:
        return [torch.arange(100.0)[10:13] for _ in images]

    (tokens,) = make_store(tmp_path).get(lazy_images(0), cut)
    assert tokens.tolist() == [10, 11, 12]
    assert tokens.untyped_storage().nbytes() == ENTRY
