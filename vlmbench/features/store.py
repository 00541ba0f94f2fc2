"""The vision-token store: with a frozen tower, a picture's tokens never change, so each picture is encoded once.

Content-addressed: an entry's name is the SHA-256 of the picture's pixels, in a folder named by the fingerprint of
everything else that its tokens depend on. Shared by epochs, runs, seeds and variants.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def picture_key(image: Image) -> str:
    """SHA-256 of what the tower will see of the picture: its mode, its size and its pixels."""
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


class TokenStore:
    """Tokens by picture, in memory and in `folder/<fingerprint>/`."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder / fingerprint
        self._memory: dict[str, Tensor] = {}

    def get(self, images: Sequence[Image], encode: Callable[[Image], Tensor]) -> list[Tensor]:
        """The tokens of each picture; `encode` is called for those that the store has not seen.

        Pictures are encoded one by one: in a batch, the last bits would depend on the batch's other pictures.
        """
        return [self._get(image, encode) for image in images]

    def _get(self, image: Image, encode: Callable[[Image], Tensor]) -> Tensor:
        key = picture_key(image)
        if key not in self._memory:
            path = self._folder / key[:2] / f"{key}.safetensors"
            tokens = self._read(path)
            if tokens is None:
                tokens = encode(image).detach().cpu().contiguous()
                self._write(path, tokens)
            self._memory[key] = tokens
        return self._memory[key]

    @staticmethod
    def _read(path: Path) -> Tensor | None:
        if not path.exists():
            return None
        try:
            return load_file(path)["tokens"]
        except SafetensorError:  # cut short or overwritten by something else: encode again
            path.unlink(missing_ok=True)
            return None

    @staticmethod
    def _write(path: Path, tokens: Tensor) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.stem}.{os.getpid()}")
        save_file({"tokens": tokens}, unfinished)
        unfinished.replace(path)
