"""The store's level on disk: one safetensors file an image, with a checksum.

A file appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vlmbench.system.files import make_file

log = logging.getLogger(__name__)

TENSOR, CHECKSUM = "tokens", "xxh3_128"
SUFFIX, UNFINISHED = ".safetensors", ".unfinished"
MAX_HEADER = 100_000  # bytes; ours have about 150
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I8": torch.int8}
ABANDONED = 3600  # seconds: no process still writes an unfinished file of this age
ROOM = 0.9  # of the budget remains in use after old entries are removed
CLOCK = 1.0  # seconds by which a file's time may precede its use
NUM_WRITERS = 4  # threads: one alone does not keep up with a tower
MAX_QUEUE = 24  # entries that wait for a writer; more would fill the memory


class DiskLevel:
    """Tensors in `folder/<fingerprint>/<aa>/<key>.safetensors`. The budget is for all of `folder`.

    Entries used since `begin_run` stay. The least recently used of the others make room, but never
    more than a run adds: a small budget does not empty a store that others share. A damaged entry
    is reported and removed; one that cannot be read, or that anybody may have put there, is
    reported once and left alone. If writing fails (a full disk, no permission), that is reported
    once, and reading goes on. Threads of its own write.
    """

    def __init__(self, folder: Path, fingerprint: str, budget: int) -> None:
        self._root, self._folder, self._budget = folder, folder / fingerprint, budget
        # Bytes in the whole folder: the last count, plus what was written since.
        self._num_bytes: int | None = None
        self._writers = ThreadPoolExecutor(NUM_WRITERS, thread_name_prefix="token-store-write")
        self._counting = Lock()  # one writer at a time makes room
        self._queue: list[Future[None]] = []
        self._is_writable = budget > 0
        self._warned = False  # that an entry is left alone
        self._is_public: dict[Path, bool] = {}  # whether everybody may write to a folder
        self.begin_run()

    def begin_run(self) -> None:
        """Let all present entries make room until they are used again."""
        self._began = time.time() - CLOCK
        self._is_full = False  # with entries of this run
        self._added = self._removed = 0  # bytes of this run's entries, and of others'

    def path(self, key: str) -> Path:
        """Return the path of the entry's file."""
        return self._folder / key[:2] / f"{key}{SUFFIX}"

    def describe(self, key: str) -> Tensor | None:
        """Return a meta tensor of the entry's shape and type, or None if there is no entry."""
        entry = self._open(key)
        return None if entry is None else entry[0]

    def read(self, key: str, make: Callable[[Tensor], Tensor] | None = None) -> Tensor | None:
        """Return the tensor, or None if there is no valid entry.

        `make(like)` returns the host memory for a tensor like the meta tensor `like`. The checksum
        is compared in that memory.
        """
        entry = self._open(key)
        if entry is None:
            return None

        path, (like, expected) = self.path(key), entry
        tensor = torch.empty_like(like, device="cpu") if make is None else make(like)
        try:
            _read_into(tensor, path)
        except FileNotFoundError:  # another process removed it just now
            return None
        except OSError as error:
            self._remove_damaged(path, str(error))
            return None

        if checksum(key, tensor) != expected:
            self._remove_damaged(path, "its checksum is wrong")
            return None
        with contextlib.suppress(OSError):  # a read-only folder, or another process removed it
            os.utime(path)
        return tensor

    def _open(self, key: str) -> tuple[Tensor, str | None] | None:
        """Return a meta tensor like the entry, and the checksum that it names; or None."""
        path = self.path(key)
        if not self._is_trusted(path):
            return None
        try:
            return _read_header(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
            self._remove_damaged(path, str(error))
            return None

    def _is_trusted(self, path: Path) -> bool:
        """Whether an entry may be read: neither another user's own, nor planted by anybody."""
        try:
            owner = path.stat().st_uid
        except OSError:  # there is none
            return True

        if not os.access(path, os.R_OK):
            why = "its owner alone may read it; its owner must run chmod -R g+rX there"
        elif os.name == "posix" and owner not in (os.getuid(), 0) and self._public(path.parent):
            why = "another user wrote it, and everybody may write there; set cache_dir=.cache"
        else:
            return True

        if not self._warned:
            self._warned = True
            log.warning("%s: stored vision tokens are not used: %s", path, why)
        return False

    def _public(self, folder: Path) -> bool:
        """Whether everybody may write to a folder of the store."""
        if folder not in self._is_public:
            modes = [one.stat().st_mode for one in (folder, self._folder, self._root)]
            self._is_public[folder] = any(mode & stat.S_IWOTH for mode in modes)
        return self._is_public[folder]

    @staticmethod
    def _remove_damaged(path: Path, reason: str) -> None:
        log.warning(
            "%s: the stored tokens are damaged (%s); the image is encoded again", path, reason
        )
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: the damaged entry cannot be removed (%s)", path, error)

    @property
    def is_writable(self) -> bool:
        """Whether a new entry would be written, as far as this process knows."""
        return self._is_writable and not self._is_full

    def write(self, key: str, tensor: Tensor, *, after: Any | None = None) -> None:
        """Queue a tensor in host memory for writing, once the event `after` has happened.

        The tensor must not change afterwards.
        """
        if not self.is_writable:
            return

        self._queue = [future for future in self._queue if not future.done()]
        if len(self._queue) >= MAX_QUEUE:
            self._queue.pop(0).result()
        self._queue.append(self._writers.submit(self._write, self.path(key), tensor, after))

    def _write(self, path: Path, tensor: Tensor, after: Any | None) -> None:
        if after is not None:
            after.synchronize()
        if not self.is_writable or path.exists() or tensor.nbytes > self._budget:
            return

        unfinished = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, unfinished = make_file(path.parent, suffix=UNFINISHED)
            mode = stat.S_IMODE(os.fstat(handle).st_mode)
            os.close(handle)

            metadata = {CHECKSUM: checksum(path.stem, tensor)}
            save_file({TENSOR: tensor}, unfinished, metadata=metadata)
            unfinished.chmod(mode)  # safetensors replaced the file by one for its owner alone
            with self._counting:
                has_room = not self._is_full and self._make_room(unfinished.stat().st_size)
                if has_room:
                    unfinished.replace(path)
            if not has_room:
                unfinished.unlink()
        except (OSError, SafetensorError) as error:
            with self._counting:
                was_writable, self._is_writable = self._is_writable, False
            if was_writable:
                log.warning(
                    "%s: no more vision tokens are written to disk (%s); make room there",
                    self._root,
                    error,
                )
            if unfinished is not None:
                unfinished.unlink(missing_ok=True)

    def _make_room(self, num_bytes: int) -> bool:
        """Remove old entries of all fingerprints until `num_bytes` fit; return whether they fit.

        A store that is larger than the budget, because others have a larger one, does not shrink.
        """
        if not self._fits(num_bytes):
            self._remove_old(num_bytes)

        if not self._fits(num_bytes):
            self._is_full = True
            log.warning(
                "%s: this run's vision tokens fill store.disk_gb=%g; images beyond that are "
                "encoded again when they are shown and no memory holds them; raise store.disk_gb",
                self._root,
                self._budget / 1e9,
            )
            return False

        self._added += num_bytes
        self._num_bytes = (self._num_bytes or 0) + num_bytes
        return True

    def _fits(self, num_bytes: int) -> bool:
        """Whether there is room: in the budget, or in place of entries that were removed."""
        if self._num_bytes is None:
            return False
        makes_up = self._added + num_bytes <= min(self._removed, self._budget)
        return makes_up or self._num_bytes + num_bytes <= self._budget

    def _remove_old(self, num_bytes: int) -> None:
        """Count the entries; if needed, remove the least recently used ones of earlier runs."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)

        if total + num_bytes > self._budget:
            wanted = self._added + num_bytes + self._budget * (1 - ROOM)
            for used, size, path in entries:
                is_enough = self._removed >= min(wanted, self._budget)
                if used >= self._began or is_enough or total + num_bytes <= self._budget * ROOM:
                    break
                try:
                    path.unlink(missing_ok=True)
                except PermissionError:  # another user's entry stays
                    continue
                total -= size
                self._removed += size
        self._num_bytes = total

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Return (time of last use, bytes, path) of each entry; remove abandoned files.

        An entry from the future counts as the oldest: a clock that was set back must not keep it.
        """
        for path in self._root.rglob("*"):
            try:
                facts = path.stat()
            except OSError:  # another process removed it just now, or another user's folder
                continue

            age = time.time() - facts.st_mtime
            if path.suffix == SUFFIX:
                used = facts.st_mtime if age > -ABANDONED else 0.0
                yield used, facts.st_size, path
            elif path.suffix == UNFINISHED and abs(age) > ABANDONED:
                with contextlib.suppress(PermissionError):
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Wait until all queued entries are written."""
        for future in self._queue:
            future.result()
        self._queue = []


def _read_header(path: Path) -> tuple[Tensor, str | None]:
    """Return a meta tensor like the file's, and its checksum. Raise ValueError for a cut file.

    safetensors would map the file, and a mapped file must not be cut.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError("its header is too long")
        header = json.loads(file.read(length))
        size = os.fstat(file.fileno()).st_size

    entry = header[TENSOR]
    tensor = torch.empty(entry["shape"], dtype=TYPES[entry["dtype"]], device="meta")
    if size != 8 + length + tensor.nbytes:
        raise ValueError("it was cut")

    return tensor, header.get("__metadata__", {}).get(CHECKSUM)


def _read_into(tensor: Tensor, path: Path) -> None:
    """Fill the tensor with the last bytes of a file. Through a mapping, each page is a fault."""
    remaining = memoryview(_bytes(tensor).numpy())
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):  # not on macOS
            # Read the whole file at once, not in small pieces.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

        file.seek(-len(remaining), os.SEEK_END)
        while remaining and (count := file.readinto(remaining)):
            remaining = remaining[count:]


def checksum(key: str, tensor: Tensor) -> str:
    """Return XXH3 (128 bits, hexadecimal) of the key, the type, the shape and the numbers."""
    numbers = _bytes(tensor.detach().cpu().contiguous()).numpy()
    digest = xxhash.xxh3_128(f"{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(numbers)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.flatten().view(torch.uint8)
