"""What the models have in common that come with a processor of transformers and a chat template."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmbench.backbones.answers import continued_text, generate_answers, score_labels
from vlmbench.backbones.base import (
    IGNORED,
    PaddingSide,
    TokenCount,
    VisionCost,
    ahead,
    content_of,
    keyed,
    may_look,
    merge_adapter,
    opened,
    pad,
    pinned,
    positions,
    ready,
    to_device,
    without_gradients,
)
from vlmbench.backbones.template import rendered
from vlmbench.config import BuildRequest, Vision
from vlmbench.data.pictures import Picture
from vlmbench.types import Sample, UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vlmbench.features.store import Fetched, TokenStore

REMEMBERED = 4096  # texts
GAP = 16  # pixels between the pictures of a stitched pair


class Layout(StrEnum):
    two_images = "two_images"  # the pair as two pictures, next to each other before the text
    stitched = "stitched"  # side by side on one canvas: the publisher of Llama-3.2-Vision advises one picture a prompt


class ChatBackbone(ABC):
    """A record is one turn: its pictures next to each other, its question, and the answer with the turn's end."""

    train_padding: PaddingSide = "left"  # in training: so that answers stand together, and few logits are computed

    def __init__(self, model: Any, processor: Any, *, layout: Layout, request: BuildRequest) -> None:
        self.model, self.processor, self.layout = model, processor, layout
        self.tokenizer = processor.tokenizer
        self.vision, self.engine = request.vision, request.engine
        self.max_tokens = int(model.config.text_config.max_position_embeddings)
        self._markers = re.compile("|".join(self._marker_patterns()))
        if request.vision is Vision.frozen:
            for module in self._vision_modules():
                without_gradients(module)
        else:
            from vlmbench.backbones._lean import use_lean_layers

            for module in self._vision_modules():
                use_lean_layers(module)
        model.get_base_model().lm_head.register_forward_pre_hook(_in_one_piece)
        self.store = self._open_store(request)
        # A frozen tower encodes each picture by itself, kept or not: the same tokens either way.
        self.reads_tokens = request.vision is Vision.frozen and request.weights

    def _open_store(self, request: BuildRequest) -> TokenStore | None:
        if request.vision is not Vision.frozen or not request.store.enabled or not request.weights:
            return None
        from vlmbench.features.store import TokenStore, refuse_trainable

        refuse_trainable(*self._vision_modules())
        device = next(self.model.parameters()).device
        return TokenStore(request.cache_dir / "features", self.fingerprint(), device=device, settings=request.store)

    @abstractmethod
    def _vision_modules(self) -> Sequence[Any]:
        """Tower and projector: what makes a picture's tokens."""

    @abstractmethod
    def _prepare(self, image: Image) -> dict[str, Any]:
        """What the tower takes of one picture, on the processor. Several threads do this at once."""

    @abstractmethod
    def _encode(self, inputs: dict[str, Any]) -> Tensor:
        """Tokens of one prepared picture after the projector: (tokens, hidden)."""

    @abstractmethod
    def _length(self, text: str, sizes: Sequence[tuple[int, int]]) -> int:
        """Positions that a text takes with pictures of these (width, height)."""

    @abstractmethod
    def _place(
        self, texts: list[str], fetched: Fetched, counts: list[int], padding_side: PaddingSide
    ) -> dict[str, Any]:
        """Model inputs of texts whose pictures' tokens are ready, or on their way (PENDING): `counts` pictures of each
        text."""

    def collate(
        self, samples: Sequence[Sample], *, with_answer: bool, padding_side: PaddingSide = "right"
    ) -> dict[str, Any]:
        return ready(self._collate(samples, with_answer=with_answer, padding_side=padding_side))

    def train_batch(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Answers stand at the end of each row, or near it, and logits are computed from the first of them on."""
        batch = self._collate(samples, with_answer=True, padding_side=self.train_padding)
        first = int((batch["labels"] != IGNORED).any(0).nonzero()[0])
        kept = batch["labels"].shape[1] - first + 1  # the first is said by the position before it
        return self._may_look(batch) | {"labels": batch["labels"][:, -kept:], "logits_to_keep": kept}

    def _may_look(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The training batch with what says where each position may look, in the form that costs least."""
        mask = batch["attention_mask"]
        return batch | {"attention_mask": may_look(self.model, mask, mask.shape[1])}

    def _collate(self, samples: Sequence[Sample], *, with_answer: bool, padding_side: PaddingSide) -> dict[str, Any]:
        pictures = [self._pictures(sample.images) for sample in samples]
        texts = [self._prompt(sample.question, len(shown)) for sample, shown in zip(samples, pictures, strict=True)]
        ends = [self._answer(sample.answer) for sample in samples] if with_answer else [""] * len(samples)
        whole = [text + end for text, end in zip(texts, ends, strict=True)]
        if self.reads_tokens:
            fetched = self._fetch([picture for shown in pictures for picture in shown])
            batch = self._place(whole, fetched, [len(shown) for shown in pictures], padding_side)
        else:
            images = ahead(opened, [picture for shown in pictures for picture in shown])
            batch = self._process(whole, [list(islice(images, len(shown))) for shown in pictures], padding_side)
        batch["position_ids"] = positions(batch["attention_mask"])
        if with_answer:
            batch["labels"] = self._labels(batch, ends, padding_side)
        return batch

    def _fetch(self, pictures: Sequence[Image | Picture]) -> Fetched:
        if self.store is not None:
            return self.store.fetch([keyed(picture) for picture in pictures], self._encode_each)
        from vlmbench.features.store import Fetched

        return Fetched.of(self.encode(pictures))

    def _process(self, texts: list[str], pictures: list[list[Image]], padding_side: PaddingSide) -> dict[str, Any]:
        inputs = self.processor(
            text=texts, images=pictures, padding=True, padding_side=padding_side, return_tensors="pt"
        )
        return dict(inputs)

    def count_tokens(self, sample: Sample, sizes: Sequence[tuple[int, int]]) -> TokenCount:
        shown = [stitched_size(sizes)] if self.layout is Layout.stitched and len(sizes) > 1 else list(sizes)
        answer = self._answer(sample.answer)
        total = self._length(self._prompt(sample.question, len(shown)) + answer, shown)
        return TokenCount(total=total, trained=len(self._ids(answer)))

    def vision_cost(self, size: tuple[int, int]) -> VisionCost:
        first = next(self._vision_modules()[0].parameters())
        tokens, flops = self._tokens_and_flops(size)
        num_bytes = tokens * int(self.model.config.text_config.hidden_size) * first.element_size()
        return VisionCost(num_bytes=num_bytes, flops=flops)

    @abstractmethod
    def _tokens_and_flops(self, size: tuple[int, int]) -> tuple[int, float]:
        """Of one picture of this (width, height): tokens that are kept, operations of the tower."""

    def encode(self, images: Sequence[Image | Picture]) -> list[Tensor]:
        """(tokens, hidden) of each picture after the projector; only tiles that show something."""
        return list(self._encode_each(images))

    def _encode_each(self, images: Iterable[Image | Picture]) -> Iterator[Tensor]:
        """By itself: in a batch, the last bits would depend on the batch's other pictures. Pictures are opened and
        prepared some ahead of the tower."""
        import torch

        for inputs in ahead(self._opened_and_prepared, images):
            with torch.no_grad():
                tokens = self._encode(to_device(inputs, self.model))
            yield tokens

    def _opened_and_prepared(self, image: Image | Picture) -> dict[str, Any]:
        return pinned(self._prepare(opened(image)), self.model)

    def fingerprint(self) -> str:
        """Of the processor's settings, the weights, and what rounds otherwise: engine, kind of device, torch."""
        import torch

        device = next(self.model.parameters()).device
        settings = f"{self.processor.image_processor.to_json_string()} {self.engine} {device.type} {torch.__version__}"
        return content_of(settings, *self._vision_modules())

    def score(self, samples: Sequence[Sample], labels: Sequence[str]) -> Tensor:
        prefix = self._prefix(samples)
        ids = [self._ids(label) for label in labels]
        cached = self._may_continue(prefix, ids)
        return score_labels(self.model, to_device(prefix, self.model), ids, continuation=self._continued, cached=cached)

    def _prefix(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """What comes before the answers, at the end of each row."""
        return self.collate(samples, with_answer=False, padding_side="left")

    def _continued(self, prefix: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
        return continued_text(prefix, n)

    def _may_continue(self, prefix: Mapping[str, Tensor], label_ids: Sequence[Sequence[int]]) -> bool:
        """Whether the prefix's keys and values still hold when a label follows."""
        return True

    def generate(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[str]:
        prefix = to_device(self._prefix(samples), self.model)
        return generate_answers(self.model, self.tokenizer, prefix, max_new_tokens=max_new_tokens)

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder, safe_serialization=True)

    def merge(self) -> None:
        merge_adapter(self.model)

    def save_merged(self, folder: Path) -> None:
        self.model.unload().save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def _pictures(self, images: Sequence[Image | Picture]) -> list[Image | Picture]:
        if self.layout is Layout.stitched and len(images) > 1:
            return [_stitched(images)]
        return list(images)

    @cached_property
    def _prompt(self) -> Callable[[str, int], str]:
        """The text of a question (first) about so many pictures (second). Questions repeat, and a template is slow."""

        @lru_cache(REMEMBERED)
        def prompt(question: str, num_images: int) -> str:
            self._refuse_markers("question", question)
            content = [{"type": "image"}] * num_images + [{"type": "text", "text": question}]
            messages = [{"role": "user", "content": content}]
            return rendered(self.processor, messages)

        return prompt

    def _answer(self, answer: str) -> str:
        self._refuse_markers("answer", answer)
        return f"{answer}{self.tokenizer.eos_token}"

    def _marker_patterns(self) -> list[str]:
        """Regular expressions of what has a meaning of its own to the model: turns, pictures."""
        return [re.escape(token.content) for token in self.tokenizer.added_tokens_decoder.values()]

    def _refuse_markers(self, what: str, text: str) -> None:
        found = self._markers.search(text)
        if found is not None:
            raise UserError(f"{what} {text[:60]!r} holds {found[0]!r}, a marker of the model; reword it")

    @cached_property
    def _ids(self) -> Callable[[str], tuple[int, ...]]:
        """The tokens of a text. Answers repeat."""

        @lru_cache(REMEMBERED)
        def ids(text: str) -> tuple[int, ...]:
            return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

        return ids

    def _labels(self, batch: Mapping[str, Tensor], answers: Sequence[str], side: PaddingSide) -> Tensor:
        """The ids of the answers, which are the last of each full text."""
        rows = []
        for ids, mask, answer in zip(batch["input_ids"], batch["attention_mask"], answers, strict=True):
            full, expected = ids[mask.bool()].tolist(), list(self._ids(answer))
            if full[-len(expected) :] != expected:
                raise UserError(f"the answer {answer!r} has other tokens beside its prompt than alone; reword it")
            rows.append([IGNORED] * (len(full) - len(expected)) + expected)
        return pad(rows, IGNORED, side)


def _in_one_piece(head: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A hook before the output layer: of a slice of the positions, PyTorch would make one small product a record."""
    return args[0].contiguous(), *args[1:]


def _stitched(images: Sequence[Image | Picture]) -> Picture:
    parts = [keyed(image) for image in images]
    keys = tuple(part.key for part in parts)
    return Picture(lambda: stitch([part.image for part in parts]), place=("stitched", GAP, keys))


def stitch(images: Sequence[Image]) -> Image:
    """The pictures side by side on white, scaled to the height of the tallest."""
    from PIL import Image

    widths, height = _scaled([image.size for image in images])
    canvas = Image.new("RGB", stitched_size([image.size for image in images]), "white")
    left = 0
    for image, width in zip(images, widths, strict=True):
        canvas.paste(image.resize((width, height)), (left, 0))
        left += width + GAP
    return canvas


def stitched_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(width, height) of the canvas of pictures of these (width, height)."""
    widths, height = _scaled(sizes)
    return sum(widths) + GAP * (len(widths) - 1), height


def _scaled(sizes: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    height = max(high for _, high in sizes)
    return [max(1, round(wide * height / high)) for wide, high in sizes], height
