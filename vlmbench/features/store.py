"""The vision-token store: with a frozen tower, a picture's tokens never change, so each picture is encoded once.

Content-addressed: an entry's name is the SHA-256 of the picture's pixels, in a folder named by the fingerprint of
everything else that its tokens depend on. Shared by epochs, runs, seeds and variants, and by processes. Tokens are
looked for on the model's device, then in host memory, then on disk; whatever is found nowhere is encoded.
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
from vlmbench.data.pictures import Picture
from vlmbench.features.disk import DiskLevel
from vlmbench.features.memory import MemoryLevel, PinnedMemory, device_budget, host_budget
from vlmbench.types import UserError

log = logging.getLogger(__name__)

Encode = Callable[[Sequence[Picture]], Iterable[Tensor]]
THREADS = 8  # that open pictures and files; and as many that read files beside the caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Tokens of pictures on the model's device, in their order: `lengths` of each are known, the tokens may still be on
    their way. `wait()` gives them, and makes the current stream wait; it comes once, before any use."""

    lengths: list[int]
    wait: Callable[[], list[Tensor]]

    @classmethod
    def of(cls, tokens: list[Tensor]) -> Fetched:
        """Tokens that are there."""
        return cls(lengths=[len(one) for one in tokens], wait=lambda: tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Tokens that are being read from disk to `host` memory, and where they go on the device."""

    host: Future[Tensor | None]
    target: Tensor


class TokenStore:
    """Tokens by picture, kept on `device` or else in host memory, and in `folder/<fingerprint>/`, each within its
    budget."""

    def __init__(self, folder: Path, fingerprint: str, *, device: torch.device, settings: StoreConfig) -> None:
        on_gpu = device.type == "cuda"
        self.folder, self.fingerprint, self.device, self.settings = folder, fingerprint, device, settings
        self._copies = torch.cuda.Stream(device) if on_gpu else None
        self._near = MemoryLevel(device_budget(device, settings.device_gb))
        # Without a GPU the device's memory is the host's.
        self._host = MemoryLevel(host_budget(settings.host_gb) if on_gpu else 0)
        self._pinned = PinnedMemory(self._copies)
        self._looking = ThreadPoolExecutor(THREADS, thread_name_prefix="token-store-look")
        self._reading = ThreadPoolExecutor(THREADS, thread_name_prefix="token-store-read")
        self._disk = DiskLevel(folder, fingerprint, round(settings.disk_gb * 1e9))
        self._likes: dict[str, Tensor] = {}  # on the meta device: shape and type of tokens that were seen
        self.found: Counter[str] = Counter()  # look-ups by where the tokens were: device, host, disk, encoded

    def begin_run(self) -> None:
        """From here on, what is used stays on its level; what was used before makes room for it."""
        for level in (self._near, self._host, self._disk):
            level.begin_run()

    def get(self, pictures: Sequence[Picture], encode: Encode) -> list[Tensor]:
        """The tokens of each picture, ready for use; `encode` makes those that are kept nowhere, in the order given."""
        return self.fetch(pictures, encode).wait()

    def fetch(self, pictures: Sequence[Picture], encode: Encode) -> Fetched:
        """As `get`, but files are read, and copies from host memory go on, beside what the caller and the device do."""
        if self._copies is not None:
            # Memory for the copies may have been freed by work that is still queued.
            self._copies.wait_stream(torch.cuda.current_stream())
        different = dict(zip(self._keys(pictures), pictures, strict=True))
        tokens = self._in_memory(different)
        readings = self._read([key for key in different if key not in tokens])
        missing = {key: picture for key, picture in different.items() if key not in tokens and key not in readings}
        tokens |= self._encoded(missing, encode)
        arrival = self._arrival()

        def wait() -> list[Tensor]:
            gone = [key for key, reading in readings.items() if not self._arrives(key, reading)]
            again = self._encoded({key: different[key] for key in gone}, encode)
            for key, made in again.items():
                self._refuse_other_shape(key, made, readings[key].target)
            if self._copies is not None:
                torch.cuda.current_stream().wait_event(self._copies.record_event() if readings else arrival)
            ready = shapes | again
            return [ready[picture.key] for picture in pictures]

        shapes = tokens | {key: reading.target for key, reading in readings.items()}
        return Fetched(lengths=[len(shapes[picture.key]) for picture in pictures], wait=wait)

    def _keys(self, pictures: Sequence[Picture]) -> list[str]:
        """Pictures that have to be opened for it are so several at a time."""
        deque(self._looking.map(attrgetter("key"), [picture for picture in pictures if not picture.is_known]), maxlen=0)
        return [picture.key for picture in pictures]

    def _in_memory(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """The tokens that are kept on the device, or in host memory and now on their way to it."""
        found = {}
        for key in keys:
            if (tokens := self._near.get(key)) is not None:
                self.found["device"] += 1
                found[key] = tokens
            elif (tokens := self._host.get(key)) is not None:
                self.found["host"] += 1
                found[key] = self._to_device(tokens, torch.empty_like(tokens, device=self.device))
                if self._near.put(key, found[key]):
                    self._host.remove(key)
        return found

    def _read(self, keys: Sequence[str]) -> dict[str, Reading]:
        """Begin to read the tokens of those keys that may be on disk: of unknown shape are those that never were."""
        unknown = [key for key in keys if key not in self._likes]
        found = zip(unknown, self._looking.map(self._disk.like, unknown), strict=True)
        self._likes |= {key: like for key, like in found if like is not None}
        make = torch.empty_like if self._copies is None else self._pinned.empty_like
        return {
            key: Reading(
                host=self._reading.submit(self._disk.read, key, make),
                # Taken here: what freed this memory was queued before the copies were told to wait.
                target=torch.empty_like(self._likes[key], device=self.device),
            )
            for key in keys
            if key in self._likes
        }

    def _arrives(self, key: str, reading: Reading) -> bool:
        """Keep what was read, and send it to the device; False where nothing was."""
        tokens = reading.host.result()
        if tokens is None or tokens.shape != reading.target.shape:
            return False
        self.found["disk"] += 1
        if not self._near.put(key, self._to_device(tokens, reading.target)):
            self._host.put(key, tokens)
        return True

    def _refuse_other_shape(self, key: str, made: Tensor, expected: Tensor) -> None:
        """What the batch was put together for was another picture's."""
        if made.shape != expected.shape:
            raise UserError(
                f"{self._disk.path(key)}: the stored tokens were damaged, of shape {tuple(expected.shape)} instead of "
                f"{tuple(made.shape)}, and are encoded again now; start the run again"
            )

    def _encoded(self, pictures: Mapping[str, Picture], encode: Encode) -> dict[str, Tensor]:
        """What `encode` makes of the pictures, and kept."""
        if not pictures:
            return {}
        made = zip(pictures, encode(list(pictures.values())), strict=True)
        # A copy: tokens are often a part of what the tower made, which they would keep in memory.
        return {key: self._keep(key, one.detach().clone(memory_format=torch.contiguous_format)) for key, one in made}

    def _keep(self, key: str, tokens: Tensor) -> Tensor:
        """Keep what was encoded just now."""
        self.found["encoded"] += 1
        self._likes[key] = tokens.to("meta")
        is_near = self._near.put(key, tokens)
        if self._copies is None:
            self._disk.write(key, tokens)
        elif self._disk.keeps or (not is_near and self._host.makes_room(tokens.nbytes)):
            kept = self._pinned.copy(tokens)
            if not is_near:
                self._host.put(key, kept)
            self._disk.write(key, kept, after=self._copies.record_event())
        return tokens

    def _arrival(self) -> Any | None:
        """When all copies that were begun will have arrived; None where they are made at once."""
        if self._copies is None:
            return None
        # What was encoded just now was so on the current stream.
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
