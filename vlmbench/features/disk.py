"""The store's level on disk: a safetensors file a picture, written whole, with a checksum."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger(__name__)

TENSOR, CHECKSUM = "tokens", "xxh3_128"
SUFFIX, UNFINISHED = ".safetensors", ".unfinished"
ABANDONED = 3600  # seconds after which an unfinished file is nobody's
ROOM = 0.9  # of the budget is left after old entries went
CLOCK = 1.0  # seconds by which a file's time may lie before the moment of its use
QUEUED = 64  # entries at most that wait to be written: more would fill the memory


class DiskLevel:
    """Tensors in `folder/<fingerprint>/<aa>/<key>.safetensors`; the budget is that of the whole folder.

    An entry that is damaged is reported, removed and not served. Where nothing can be written (a full disk, a folder
    without permission), that is reported once, and reading goes on. Entries are written beside the caller's work.
    What was used since `begin_run` stays; of the rest, the least recently used make room.
    """

    def __init__(self, folder: Path, fingerprint: str, budget: int) -> None:
        self._root, self._folder, self._budget = folder, folder / fingerprint, budget
        self._num_bytes: int | None = None  # of the whole folder, as of the last count and what was written since
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="token-store-write")
        self._queue: list[Future[None]] = []
        self._writes = budget > 0
        self.begin_run()

    def begin_run(self) -> None:
        """What was used before may be removed from here on."""
        self._began = time.time() - CLOCK
        self._is_full = False  # of what this run uses

    def path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}{SUFFIX}"

    def like(self, key: str) -> Tensor | None:
        """A tensor without numbers (on the meta device) of the entry's shape and type; None where there is none."""
        opened = self._open(key)
        return None if opened is None else opened[0].to("meta")

    def read(self, key: str, make: Callable[[Tensor], Tensor] = torch.empty_like) -> Tensor | None:
        """The tensor, read into memory that `make` gives for one like it, and checked there; None where there is none
        that can be trusted."""
        opened = self._open(key)
        if opened is None:
            return None
        path, (mapped, expected) = self.path(key), opened
        tensor = make(mapped)
        try:
            _read_into(tensor, path)
        except FileNotFoundError:  # removed just now, by another process that made room
            return None
        except OSError as error:
            self._remove_damaged(path, str(error))
            return None
        if checksum(key, tensor) != expected:
            self._remove_damaged(path, "its checksum is another")
            return None
        with contextlib.suppress(OSError):  # a folder that may only be read, or another process that made room
            os.utime(path)
        return tensor

    def _open(self, key: str) -> tuple[Tensor, str | None] | None:
        """The entry, mapped: nothing of it is read yet; and the checksum that it names. None where there is none."""
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(TENSOR), (file.metadata() or {}).get(CHECKSUM)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            self._remove_damaged(path, str(error))
            return None

    @staticmethod
    def _remove_damaged(path: Path, why: str) -> None:
        log.warning("%s: the stored tokens are damaged (%s); the picture is encoded again", path, why)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: the damaged entry cannot be removed (%s)", path, error)

    @property
    def keeps(self) -> bool:
        """Whether what is to be written will be, as far as is known."""
        return self._writes and not self._is_full

    def write(self, key: str, tensor: Tensor, *, after: Any | None = None) -> None:
        """Write the tensor, in host memory, when its turn comes, and the event `after` has happened. From then on it
        must not change."""
        if not self.keeps:
            return
        self._queue = [future for future in self._queue if not future.done()]
        if len(self._queue) >= QUEUED:
            self._queue.pop(0).result()
        self._queue.append(self._writer.submit(self._write, self.path(key), tensor, after))

    def _write(self, path: Path, tensor: Tensor, after: Any | None) -> None:
        if after is not None:
            after.synchronize()
        if not self.keeps or path.exists() or tensor.nbytes > self._budget:
            return
        unfinished = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=UNFINISHED)
            os.close(handle)
            unfinished = Path(name)
            save_file({TENSOR: tensor}, unfinished, metadata={CHECKSUM: checksum(path.stem, tensor)})
            if self._make_room(unfinished.stat().st_size):
                unfinished.replace(path)
            else:
                unfinished.unlink()
        except (OSError, SafetensorError) as error:
            self._writes = False
            log.warning("%s: vision tokens are not kept on disk any more (%s); make room there", self._root, error)
            if unfinished is not None:
                unfinished.unlink(missing_ok=True)

    def _make_room(self, more: int) -> bool:
        """Whether `more` bytes fit into the budget, after the least recently used entries of all fingerprints went."""
        if self._num_bytes is None or self._num_bytes + more > self._budget:
            entries = sorted(self._entries())
            self._num_bytes = sum(size for _, size, _ in entries)
            old = [(size, path) for used, size, path in entries if used < self._began]
            if self._num_bytes + more > self._budget:
                for size, path in old:
                    if self._num_bytes + more <= self._budget * ROOM:
                        break
                    path.unlink(missing_ok=True)
                    self._num_bytes -= size
        if self._num_bytes + more > self._budget:
            self._is_full = True
            log.warning(
                "%s: this run's vision tokens fill store.disk_gb=%g; pictures beyond are encoded again whenever they "
                "are shown and are in no memory: raise store.disk_gb",
                self._root,
                self._budget / 1e9,
            )
            return False
        self._num_bytes += more
        return True

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """(time of last use, bytes, path) of every entry; what killed writers left is removed."""
        for path in self._root.rglob("*"):
            try:
                facts = path.stat()
            except FileNotFoundError:  # removed by another process just now
                continue
            if path.suffix == SUFFIX:
                yield facts.st_mtime, facts.st_size, path
            elif path.suffix == UNFINISHED and time.time() - facts.st_mtime > ABANDONED:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Wait until everything is written."""
        for future in self._queue:
            future.result()
        self._queue = []


def _read_into(tensor: Tensor, path: Path) -> None:
    """Fill the tensor with the last bytes of a file. Through the mapping each page would be a fault of its own."""
    left = memoryview(_bytes(tensor).numpy())
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)  # all at once, not in small pieces
        file.seek(-len(left), os.SEEK_END)
        while left and (count := file.readinto(left)):
            left = left[count:]


def checksum(key: str, tensor: Tensor) -> str:
    """XXH3, 128 bits, of the key, the type, the shape and the numbers."""
    numbers = _bytes(tensor.detach().cpu().contiguous()).numpy()
    digest = xxhash.xxh3_128(f"{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(numbers)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.flatten().view(torch.uint8)
