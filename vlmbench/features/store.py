"""The vision-token store: with a frozen tower, a picture's tokens never change, so each picture is encoded once.

Content-addressed: an entry's name is the SHA-256 of the picture's pixels, in a folder named by the fingerprint of
everything else that its tokens depend on. Shared by epochs, runs, seeds and variants, and by processes. Tokens are
looked for on the model's device, then in host memory, then on disk; whatever is found nowhere is encoded.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmbench.config import StoreConfig
from vlmbench.data.pictures import Picture
from vlmbench.features.disk import DiskLevel
from vlmbench.features.memory import MemoryLevel, PinnedMemory, device_budget, host_budget
from vlmbench.types import UserError

log = logging.getLogger(__name__)

Encode = Callable[[Sequence[Picture]], Iterable[Tensor]]
THREADS = 8  # that open pictures for their keys, and read files


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Tokens of pictures on the model's device, in their order.

    They may still be on their way: `wait()` makes the current stream wait for them, and comes before any use.
    """

    tokens: list[Tensor]
    arrival: Any | None  # a torch.cuda.Event

    def wait(self) -> list[Tensor]:
        if self.arrival is not None:
            torch.cuda.current_stream().wait_event(self.arrival)
        return self.tokens


class TokenStore:
    """Tokens by picture, kept on `device`, in host memory and in `folder/<fingerprint>/`, each within its budget."""

    def __init__(self, folder: Path, fingerprint: str, *, device: torch.device, settings: StoreConfig) -> None:
        on_gpu = device.type == "cuda"
        self.folder, self.fingerprint, self.device, self.settings = folder, fingerprint, device, settings
        self._copies = torch.cuda.Stream(device) if on_gpu else None
        self._near = MemoryLevel(device_budget(device, settings.device_gb))
        # Without a GPU the device's memory is the host's.
        pinned = PinnedMemory(self._copies)
        self._host = MemoryLevel(host_budget(settings.host_gb), pinned=pinned) if on_gpu else None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="token-store")
        self._disk = DiskLevel(folder, fingerprint, round(settings.disk_gb * 1e9))
        self.found: Counter[str] = Counter()  # look-ups by where the tokens were: device, host, disk, encoded

    def get(self, pictures: Sequence[Picture], encode: Encode) -> list[Tensor]:
        """The tokens of each picture, ready for use; `encode` makes those that are kept nowhere, in the order given."""
        return self.fetch(pictures, encode).wait()

    def fetch(self, pictures: Sequence[Picture], encode: Encode) -> Fetched:
        """As `get`, but copies from host memory go on beside what the device is doing."""
        if self._copies is not None:
            # Memory for the copies may have been freed by work that is still queued.
            self._copies.wait_stream(torch.cuda.current_stream())
        different = dict(zip(self._keys(pictures), pictures, strict=True))
        tokens = self._kept(list(different))
        missing = {key: picture for key, picture in different.items() if key not in tokens}
        for key, made in zip(missing, encode(list(missing.values())), strict=True):
            # A copy: tokens are often a part of what the tower made, which they would keep in memory.
            tokens[key] = self._keep(key, made.detach().clone(memory_format=torch.contiguous_format))
        return Fetched(tokens=[tokens[picture.key] for picture in pictures], arrival=self._arrival())

    def _keys(self, pictures: Sequence[Picture]) -> list[str]:
        """Pictures that have to be opened for it are so several at a time."""
        deque(self._threads.map(attrgetter("key"), [picture for picture in pictures if not picture.is_known]), maxlen=0)
        return [picture.key for picture in pictures]

    def _kept(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """The tokens that are kept, on the device."""
        near = {key: tokens for key in keys if (tokens := self._near.get(key)) is not None}
        self.found["device"] += len(near)
        host = {} if self._host is None else {key: self._host.get(key) for key in keys if key not in near}
        host = {key: tokens for key, tokens in host.items() if tokens is not None}
        self.found["host"] += len(host)
        absent = [key for key in keys if key not in near and key not in host]
        read = dict(zip(absent, self._threads.map(self._disk.read, absent), strict=True))
        disk = {key: self._keep_in_host(key, tokens) for key, tokens in read.items() if tokens is not None}
        self.found["disk"] += len(disk)
        far = {key: self._to_device(tokens) for key, tokens in (host | disk).items()}
        for key, tokens in far.items():
            self._near.put(key, tokens)
        return near | far

    def _keep(self, key: str, tokens: Tensor) -> Tensor:
        """Keep what was encoded just now."""
        self.found["encoded"] += 1
        kept = self._keep_in_host(key, tokens)
        self._disk.write(key, kept, after=None if self._copies is None else self._copies.record_event())
        self._near.put(key, tokens)
        return tokens

    def _arrival(self) -> Any | None:
        if self._copies is None:
            return None
        # What was encoded just now was so on the current stream.
        self._copies.wait_stream(torch.cuda.current_stream())
        return self._copies.record_event()

    def _keep_in_host(self, key: str, tokens: Tensor) -> Tensor:
        """The tokens in host memory, and kept there where that is a level of its own."""
        if self._host is None:
            return tokens.cpu()
        return self._host.put(key, tokens)

    def _to_device(self, tokens: Tensor) -> Tensor:
        if self._copies is None:
            return tokens.to(self.device)
        target = torch.empty_like(tokens, device=self.device)
        with torch.cuda.stream(self._copies):
            target.copy_(tokens, non_blocking=True)
        target.record_stream(self._copies)
        return target

    def device_bytes_to_come(self, num_bytes: int) -> int:
        """How much more the device's level will hold, once a run has shown pictures with tokens of `num_bytes`."""
        return max(0, min(self._near.budget, num_bytes) - self._near.num_bytes)

    def report(self) -> str:
        """Where tokens were found since the last report, in one line; counting begins anew. What a batch shows twice is
        looked up once."""
        total, found = self.found.total(), Counter(self.found)
        self.found.clear()
        if not total:
            return "no picture was looked up"
        places = {"device": "on the device", "host": "in memory", "disk": "on disk", "encoded": "encoded"}
        shares = ", ".join(f"{found[key] / total:.1%} {words}" for key, words in places.items() if found[key])
        return f"{total:,} look-ups: {shares}"

    def close(self) -> None:
        """Wait until everything that was to be written is on disk."""
        self._disk.close()


def refuse_trainable(*modules: Any) -> None:
    """Raise UserError where a part that tokens depend on is being trained: they would change with every step."""
    for module in modules:
        for name, weight in module.named_parameters():
            if weight.requires_grad:
                raise UserError(
                    f"store.enabled=true: {type(module).__name__}.{name} trains, so that tokens cannot be kept; set "
                    "store.enabled=false or trainer.vision=frozen"
                )
