"""The vision-token store: a frozen tower encodes each image once.

An entry's name is the SHA-256 of the image's pixels. Its folder is the fingerprint of everything
else that the tokens depend on. Epochs, runs, seeds, variants and processes share the entries. The
store looks on the model's device, in host memory, then on disk. It encodes what is nowhere.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmbench.config import StoreConfig
from vlmbench.features.disk import DiskLevel
from vlmbench.features.memory import MemoryLevel, PinnedMemory, device_budget, host_budget
from vlmbench.system.phases import phase
from vlmbench.types import LazyImage, UserError

log = logging.getLogger(__name__)

Encode = Callable[[Sequence[LazyImage]], Iterable[Tensor]]
NUM_THREADS = 8  # that open images and files, and as many that read files beside the caller
LEVELS = {
    "device": "on the device",
    "host": "in memory",
    "disk": "on disk",
    "encoded": "encoded",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """The tokens of images on the model's device, in order.

    `lengths` are known at once. The tokens may still be on their way. `wait()` returns them and
    makes the current stream wait. Call it once, before any use.
    """

    lengths: list[int]
    wait: Callable[[], list[Tensor]]

    @classmethod
    def of(cls, tokens: list[Tensor]) -> Fetched:
        """Return tokens that have arrived."""
        return cls(lengths=[len(tensor) for tensor in tokens], wait=lambda: tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Tokens on their way from disk to `host` memory, and their `target` on the device."""

    host: Future[Tensor | None]
    target: Tensor


class TokenStore:
    """Tokens by image: on `device`, in host memory, and on disk in `folder/<fingerprint>/`.

    Each level has a budget.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        *,
        device: torch.device,
        settings: StoreConfig,
    ) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.device, self.settings = device, settings
        on_gpu = device.type == "cuda"
        self._copies = torch.cuda.Stream(device) if on_gpu else None

        self._near = MemoryLevel(device_budget(device, settings.device_gb))
        # Without a GPU, the device's memory is the host's.
        self._host = MemoryLevel(host_budget(settings.host_gb) if on_gpu else 0)
        self._pinned = PinnedMemory(self._copies)
        self._disk = DiskLevel(folder, fingerprint, round(settings.disk_gb * 1e9))

        self._openers = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="token-store-open")
        self._readers = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="token-store-read")
        self._shapes: dict[str, Tensor] = {}  # meta tensors of all tokens seen so far
        self.lookups: Counter[str] = Counter()  # by the level where the tokens were

    def begin_run(self) -> None:
        """Let all present entries make room until they are used again."""
        for level in (self._near, self._host, self._disk):
            level.begin_run()

    def get(self, images: Sequence[LazyImage], encode: Encode) -> list[Tensor]:
        """Return the tokens of each image; `encode` makes missing ones, in the order given."""
        return self.fetch(images, encode).wait()

    def fetch(self, images: Sequence[LazyImage], encode: Encode) -> Fetched:
        """Do as `get` does, but read files and copy from host memory beside the caller's work."""
        if self._copies is not None:
            # Memory for the copies may have been freed by work that is still queued.
            self._copies.wait_stream(torch.cuda.current_stream())

        by_key = dict(zip(self._keys(images), images, strict=True))
        tokens = self._from_memory(by_key)
        readings = self._start_reading([key for key in by_key if key not in tokens])
        missing = {
            key: image for key, image in by_key.items() if key not in tokens and key not in readings
        }
        tokens |= self._encode(missing, encode)
        arrival = self._arrival()
        targets = tokens | {key: reading.target for key, reading in readings.items()}

        def wait() -> list[Tensor]:
            gone = [key for key, reading in readings.items() if not self._arrives(key, reading)]
            encoded = self._encode({key: by_key[key] for key in gone}, encode)
            for key, tensor in encoded.items():
                self._refuse_other_shape(key, tensor, readings[key].target)

            if self._copies is not None:
                event = self._copies.record_event() if readings else arrival
                torch.cuda.current_stream().wait_event(event)
            arrived = targets | encoded
            return [arrived[image.hash] for image in images]

        return Fetched(lengths=[len(targets[image.hash]) for image in images], wait=wait)

    def _keys(self, images: Sequence[LazyImage]) -> list[str]:
        """Return the hash of each image. Threads open those whose hash is unknown."""
        unknown = [image for image in images if not image.is_hashed]
        deque(self._openers.map(attrgetter("hash"), unknown), maxlen=0)
        return [image.hash for image in images]

    def _from_memory(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Return tokens that are on the device, or on their way to it from host memory."""
        tokens = {}
        for key in keys:
            if (near := self._near.get(key)) is not None:
                self.lookups["device"] += 1
                tokens[key] = near
            elif (host := self._host.get(key)) is not None:
                self.lookups["host"] += 1
                tokens[key] = self._to_device(host, torch.empty_like(host, device=self.device))
                if self._near.put(key, tokens[key]):
                    self._host.remove(key)
        return tokens

    def _start_reading(self, keys: Sequence[str]) -> dict[str, Reading]:
        """Start to read the tokens of those keys that may be on disk."""
        unknown = [key for key in keys if key not in self._shapes]
        shapes = zip(unknown, self._openers.map(self._disk.describe, unknown), strict=True)
        self._shapes |= {key: shape for key, shape in shapes if shape is not None}

        make = None if self._copies is None else self._pinned.empty_like
        return {
            key: Reading(
                host=self._readers.submit(self._disk.read, key, make),
                # Allocated here: the work that freed this memory was queued before `fetch` told
                # the copies to wait.
                target=torch.empty_like(self._shapes[key], device=self.device),
            )
            for key in keys
            if key in self._shapes
        }

    def _arrives(self, key: str, reading: Reading) -> bool:
        """Keep the tokens read from disk and send them to the device; return False without any."""
        tokens = reading.host.result()
        if tokens is None or tokens.shape != reading.target.shape:
            return False

        self.lookups["disk"] += 1
        if not self._near.put(key, self._to_device(tokens, reading.target)):
            self._host.put(key, tokens)
        return True

    def _refuse_other_shape(self, key: str, tokens: Tensor, expected: Tensor) -> None:
        """Raise UserError if the batch was laid out for tokens of another shape."""
        if tokens.shape != expected.shape:
            raise UserError(
                f"{self._disk.path(key)}: the stored tokens were damaged, of shape "
                f"{tuple(expected.shape)} instead of {tuple(tokens.shape)}. They are encoded again "
                "now; start the run again"
            )

    def _encode(self, images: Mapping[str, LazyImage], encode: Encode) -> dict[str, Tensor]:
        """Encode the images and keep their tokens."""
        if not images:
            return {}

        tokens = {}
        with phase("encoding"):
            for key, tensor in zip(images, encode(list(images.values())), strict=True):
                # A copy: a view would keep the tower's whole output in memory.
                copied = tensor.detach().clone(memory_format=torch.contiguous_format)
                tokens[key] = self._keep(key, copied)
        return tokens

    def _keep(self, key: str, tokens: Tensor) -> Tensor:
        """Keep tokens that were just encoded, on every level with room for them."""
        self.lookups["encoded"] += 1
        self._shapes[key] = tokens.to("meta")
        is_near = self._near.put(key, tokens)

        if self._copies is None:
            self._disk.write(key, tokens)
        elif self._disk.is_writable or (not is_near and self._host.make_room(tokens.nbytes)):
            copied = self._pinned.copy(tokens)
            if not is_near:
                self._host.put(key, copied)
            self._disk.write(key, copied, after=self._copies.record_event())
        return tokens

    def _arrival(self) -> Any | None:
        """Return the event after all copies so far, or None if copies are immediate."""
        if self._copies is None:
            return None

        # The tower encoded on the current stream.
        self._copies.wait_stream(torch.cuda.current_stream())
        return self._copies.record_event()

    def _to_device(self, tokens: Tensor, target: Tensor) -> Tensor:
        if self._copies is None:
            return target.copy_(tokens)

        with torch.cuda.stream(self._copies):
            target.copy_(tokens, non_blocking=True)
        target.record_stream(self._copies)
        return target

    def device_bytes_to_come(self, num_bytes: int) -> int:
        """Return by how many bytes the device's level will grow.

        `num_bytes` are the tokens of all images that the run shows.
        """
        return max(0, min(self._near.budget, num_bytes) - self._near.num_bytes)

    def report(self) -> str:
        """Return one line: where tokens were found since the last report. Counting starts again.

        An image that a batch shows twice counts once.
        """
        lookups = Counter(self.lookups)
        self.lookups.clear()
        total = lookups.total()
        if not total:
            return "no image was looked up"

        shares = ", ".join(
            f"{lookups[level] / total:.1%} {words}"
            for level, words in LEVELS.items()
            if lookups[level]
        )
        return f"{total:,} look-ups: {shares}"

    def close(self) -> None:
        """Wait until everything queued is on disk."""
        self._disk.close()


def refuse_trainable(*modules: Any) -> None:
    """Raise UserError if a module trains that tokens depend on: each step would change them."""
    for module in modules:
        for name, weight in module.named_parameters():
            if weight.requires_grad:
                raise UserError(
                    f"store.enabled=true: {type(module).__name__}.{name} trains, so its tokens "
                    "cannot be stored; set store.enabled=false or trainer.vision=frozen"
                )
