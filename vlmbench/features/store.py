"""The vision-token store: with a frozen tower, a picture's tokens never change, so each picture is encoded once.

Content-addressed: an entry's name is the SHA-256 of the picture's pixels, in a folder named by the fingerprint of
everything else that its tokens depend on. Shared by epochs, runs, seeds and variants, and by processes. Tokens are
looked for on the model's device, then in host memory, then on disk; whatever is found nowhere is encoded.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from vlmbench.config import StoreConfig
from vlmbench.features.disk import DiskLevel
from vlmbench.features.memory import MemoryLevel, PinnedMemory, device_budget, host_budget
from vlmbench.types import Picture, UserError

log = logging.getLogger(__name__)


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
        self._disk = DiskLevel(folder, fingerprint, round(settings.disk_gb * 1e9))
        self.found: Counter[str] = Counter()  # look-ups by where the tokens were: device, host, disk, encoded

    def get(self, pictures: Sequence[Picture], encode: Callable[[Image], Tensor]) -> list[Tensor]:
        """The tokens of each picture, ready for use; `encode` is called for those that are kept nowhere.

        Pictures are encoded one by one: in a batch, the last bits would depend on the batch's other pictures.
        """
        return self.fetch(pictures, encode).wait()

    def fetch(self, pictures: Sequence[Picture], encode: Callable[[Image], Tensor]) -> Fetched:
        """As `get`, but copies from host memory go on beside what the device is doing."""
        read = self._read(pictures)
        if self._copies is None:
            return Fetched(tokens=[self._look_up(picture, encode, read) for picture in pictures], arrival=None)
        # Memory for the copies may have been freed by work that is still queued.
        self._copies.wait_stream(torch.cuda.current_stream())
        tokens = [self._look_up(picture, encode, read) for picture in pictures]
        # What was encoded just now was so on the current stream.
        self._copies.wait_stream(torch.cuda.current_stream())
        arrival = torch.cuda.Event()
        arrival.record(self._copies)
        return Fetched(tokens=tokens, arrival=arrival)

    def _read(self, pictures: Sequence[Picture]) -> dict[str, Tensor | None]:
        """What is on disk alone, several files at a time."""
        levels = [level for level in (self._near, self._host) if level is not None]
        keys = {picture.key for picture in pictures if not any(picture.key in level for level in levels)}
        return self._disk.read_all(sorted(keys))

    def _look_up(self, picture: Picture, encode: Callable[[Image], Tensor], read: dict[str, Tensor | None]) -> Tensor:
        """`read`: what was on disk. An entry that left the memory since then is looked for there again."""
        key = picture.key
        tokens = self._near.get(key)
        if tokens is not None:
            self.found["device"] += 1
            return tokens
        kept = None if self._host is None else self._host.get(key)
        if kept is not None:
            self.found["host"] += 1
        else:
            kept = read.pop(key) if key in read else self._disk.read(key)
            if kept is not None:
                self.found["disk"] += 1
                kept = self._keep_in_host(key, kept)
        if kept is None:
            self.found["encoded"] += 1
            tokens = encode(picture.open()).detach().contiguous()
            kept = self._keep_in_host(key, tokens)
            self._disk.write(key, kept, after=self._copies.record_event() if self._copies is not None else None)
        else:
            tokens = self._to_device(kept)
        self._near.put(key, tokens)
        return tokens

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

    def report(self) -> str:
        """Where tokens were found since the last report, in one line; counting begins anew."""
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
