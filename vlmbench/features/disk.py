"""The store's level on disk: a safetensors file a picture, written whole, with a checksum."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
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
QUEUED = 64  # entries at most that wait to be written: more would fill the memory


class DiskLevel:
    """Tensors in `folder/<fingerprint>/<aa>/<key>.safetensors`; the budget is that of the whole folder.

    An entry that is damaged is reported, removed and not served. Where nothing can be written (a full disk, a folder
    without permission), that is reported once, and reading goes on. Entries are written beside the caller's work.
    """

    def __init__(self, folder: Path, fingerprint: str, budget: int) -> None:
        self._root, self._folder, self._budget = folder, folder / fingerprint, budget
        self._num_bytes: int | None = None  # of the whole folder, as of the last count and what was written since
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="token-store-write")
        self._queue: list[Future[None]] = []
        self._writes = budget > 0

    def path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}{SUFFIX}"

    def read(self, key: str) -> Tensor | None:
        """The tensor, read anew and checked; None where there is none that can be trusted."""
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                expected, tensor = (file.metadata() or {}).get(CHECKSUM), file.get_tensor(TENSOR)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            self._remove_damaged(path, str(error))
            return None
        if checksum(key, tensor) != expected:
            self._remove_damaged(path, "its checksum is another")
            return None
        with contextlib.suppress(OSError):  # a folder that may only be read, or another process that made room
            os.utime(path)  # the least recently used go first
        return tensor

    @staticmethod
    def _remove_damaged(path: Path, why: str) -> None:
        log.warning("%s: the stored tokens are damaged (%s); the picture is encoded again", path, why)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: the damaged entry cannot be removed (%s)", path, error)

    def write(self, key: str, tensor: Tensor, *, after: Any | None = None) -> None:
        """Write the tensor, in host memory, when its turn comes, and the event `after` has happened. From then on it
        must not change."""
        if not self._writes:
            return
        self._queue = [future for future in self._queue if not future.done()]
        if len(self._queue) >= QUEUED:
            self._queue.pop(0).result()
        self._queue.append(self._writer.submit(self._write, self.path(key), tensor, after))

    def _write(self, path: Path, tensor: Tensor, after: Any | None) -> None:
        if after is not None:
            after.synchronize()
        if not self._writes or path.exists() or tensor.nbytes > self._budget:
            return
        unfinished = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=UNFINISHED)
            os.close(handle)
            unfinished = Path(name)
            save_file({TENSOR: tensor}, unfinished, metadata={CHECKSUM: checksum(path.stem, tensor)})
            self._make_room(unfinished.stat().st_size)
            unfinished.replace(path)
        except (OSError, SafetensorError) as error:
            self._writes = False
            log.warning("%s: vision tokens are not kept on disk any more (%s); make room there", self._root, error)
            if unfinished is not None:
                unfinished.unlink(missing_ok=True)

    def _make_room(self, more: int) -> None:
        """Remove the least recently used entries of all fingerprints, until `more` bytes fit into the budget."""
        if self._num_bytes is None or self._num_bytes + more > self._budget:
            entries = sorted(self._entries())
            self._num_bytes = sum(size for _, size, _ in entries)
            if self._num_bytes + more > self._budget:
                for _, size, path in entries:
                    if self._num_bytes + more <= self._budget * ROOM:
                        break
                    path.unlink(missing_ok=True)
                    self._num_bytes -= size
        self._num_bytes += more

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


def checksum(key: str, tensor: Tensor) -> str:
    """XXH3, 128 bits, of the key, the type, the shape and the numbers."""
    numbers = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    digest = xxhash.xxh3_128(f"{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(numbers)
    return digest.hexdigest()
