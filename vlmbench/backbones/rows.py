"""A record as its processor lays it out, without its pixels.

The processor says where vision tokens stand and how many. It asks its image processor only for
sizes, so a blank image of the same size gives the same row, and its answer is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmbench.backbones.batches import Batch, PaddingSide
from vlmbench.backbones.layout import Size
from vlmbench.backbones.template import start_setting

if TYPE_CHECKING:
    from PIL.Image import Image

NUM_ROWS = 16_384  # rows that are kept; a row of 1,000 tokens takes 20 kB
NUM_SIZES = 4096
# The inputs that a row keeps beside those as long as its text: positions are made from them.
KEPT = ("image_grid_thw", "image_grid_hws")


class RowMaker:
    """Rows of texts and image sizes, and the encoder's inputs of images."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.row = lru_cache(NUM_ROWS)(self._row)

        # A copy asks blank images only for sizes; another has no tokenizer, as tokenizers cannot be
        # used by several threads at once.
        self._for_text = copy.copy(processor)
        self._sizes = _KnownSizes(processor.image_processor)
        self._for_text.image_processor = self._sizes
        self._for_images = copy.copy(processor)
        self._for_images.tokenizer = _NoTokenizer(processor.tokenizer)
        self._for_images._check_special_mm_tokens = _accept

    def _row(self, text: str, sizes: tuple[Size, ...]) -> Batch:
        """Return a record's inputs (1, L), and `image_grid_thw` if the type has it."""
        settings: dict[str, Any] = {"return_tensors": "pt"}
        settings |= start_setting(self._processor.tokenizer, text)
        if sizes:
            images = [[_blank(size) for size in sizes]]
            outputs = self._for_text(text=[text], images=images, **settings)
        else:
            outputs = self._for_text.tokenizer([text], **settings)

        length = outputs["input_ids"].shape[1]
        return {
            name: value
            for name, value in outputs.items()
            if name in KEPT or tuple(getattr(value, "shape", ())) == (1, length)
            if name != "labels"
        }

    def image_inputs(self, text: str, images: Sequence[Image]) -> Batch:
        """Return what the processor makes of images beside the text. Threads may call this."""
        outputs = self._for_images(
            text=[text],
            images=[list(images)],
            return_tensors="pt",
            return_mm_token_type_ids=False,
        )
        return {name: value for name, value in outputs.items() if name not in _NoTokenizer.NAMES}

    def num_pixel_values(self, size: Size) -> int:
        """Return how many numbers the pixels of an image of this size are."""
        return self._sizes.num_values([[_blank(size)]])


@lru_cache(64)
def _blank(size: Size) -> Image:
    from PIL import Image

    return Image.new("RGB", size)


def _accept(*args: Any, **kwargs: Any) -> None:
    """Check nothing: the texts of `_NoTokenizer` have no tokens."""


class _NoTokenizer:
    """A tokenizer's attributes, and rows of one token."""

    NAMES = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: Any, **settings: Any) -> _OneToken:
        count = 1 if isinstance(text, str) else len(text)
        return _OneToken(input_ids=[[0]] * count, attention_mask=[[1]] * count)


class _OneToken(dict[str, list[list[int]]]):
    """The tokens of texts, where every letter is in token 0."""

    def char_to_token(self, row: int, letter: int) -> int:
        return 0


class _KnownSizes:
    """An image processor that remembers what it made of blank images, and forgets the pixels."""

    def __init__(self, image_processor: Any) -> None:
        self._image_processor = image_processor
        self._known: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image_processor, name)

    def __call__(self, images: Any, **settings: Any) -> Any:
        key = _sizes(images), repr(sorted(settings.items(), key=lambda item: item[0]))
        if key not in self._known:
            if len(self._known) >= NUM_SIZES:
                self._known.clear()
            made = self._image_processor(images, **settings)
            self._known[key] = {name: _hollow(value) for name, value in made.items()}
        from transformers import BatchFeature

        return BatchFeature(dict(self._known[key]))

    def num_values(self, images: Any) -> int:
        made = self(images, return_tensors="pt")
        pixels = made[self.model_input_names[0]]
        return (
            int(np.prod(pixels.shape)) if hasattr(pixels, "shape") else sum(p.size for p in pixels)
        )


def _sizes(images: Any) -> Any:
    if isinstance(images, list | tuple):
        return tuple(_sizes(image) for image in images)
    return images.size


def _hollow(value: Any) -> Any:
    """Return an array or tensor of the same shape that takes no memory, for pixels only."""
    import torch

    if isinstance(value, list):
        return [_hollow(one) for one in value]
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.new_zeros(()).expand(value.shape)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return np.broadcast_to(np.zeros((), value.dtype), value.shape)
    return value


def pad_rows(rows: Sequence[Batch], *, pad_id: int, padding_side: PaddingSide) -> Batch:
    """Return rows (1, L) as one batch (B, longest L)."""
    import torch

    length = max(row["input_ids"].shape[1] for row in rows)
    batch: Batch = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in KEPT:
            batch[name] = torch.cat(values)
            continue

        filling = pad_id if name == "input_ids" else 0
        padded = []
        for value in values:
            missing = length - value.shape[1]
            amount = (missing, 0) if padding_side == "left" else (0, missing)
            padded.append(torch.nn.functional.pad(value, amount, value=filling))
        batch[name] = torch.cat(padded)
    return batch
