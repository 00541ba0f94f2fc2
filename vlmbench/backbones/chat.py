"""The plain backbone: any model of transformers that has a processor and a chat template.

`ChatBackbone` trains, scores and generates through the model's own processor, from pixels. It needs
no code of the family. A family that stores vision tokens derives from `tokens.TokenBackbone`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmbench.backbones.adapters import merge_adapter
from vlmbench.backbones.answers import generate_answers, greedy_settings, score_answers
from vlmbench.backbones.batches import IGNORED, Batch, PaddingSide, complete_batch, pad
from vlmbench.backbones.contract import VisionCost
from vlmbench.backbones.devices import prefetch, to_device
from vlmbench.backbones.layout import Layout, Size, arrange_images, arrange_sizes
from vlmbench.backbones.maps import (
    FeatureMap,
    Features,
    NoFeaturesError,
    pool_map,
    square_map,
    to_host,
)
from vlmbench.backbones.template import render_template, start_setting
from vlmbench.backbones.towers import tower_flops, without_gradients
from vlmbench.config import BuildRequest, Vision
from vlmbench.types import LazyImage, Sample, TokenCount, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from vlmbench.features.store import TokenStore

NUM_CACHED = 4096  # texts or sizes
WORDS = re.compile(r"[\w\s]*")
USUAL_PATCH = 14  # pixels: the edge of a patch in most vision towers


class ChatBackbone:
    """A record is one turn: its images, its question, then the answer with the end of the turn."""

    # In training. On the left: answers end together, so few logits are computed.
    train_padding: PaddingSide = "left"

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        layout: Layout,
        request: BuildRequest,
    ) -> None:
        self.model, self.processor, self.layout = model, processor, layout
        self.tokenizer = processor.tokenizer
        self.vision, self.engine = request.vision, request.engine
        self.max_tokens = int(model.config.get_text_config().max_position_embeddings)
        self.store: TokenStore | None = None
        self._markers = re.compile("|".join(self.marker_patterns()))

        if request.vision is Vision.frozen:
            for module in self.vision_modules():
                without_gradients(module)
        head = model.get_base_model().get_output_embeddings()
        head.register_forward_pre_hook(_make_contiguous)
        model.get_base_model().generation_config = greedy_settings(self.tokenizer)

    # A family may override these.

    def vision_modules(self) -> Sequence[Any]:
        """Return the modules that turn pixels into tokens: the tower, then the projector.

        By default this is the tower that transformers finds by its usual names, without projector.
        """
        base = self.model.get_base_model()
        tower = base.get_encoder(modality="image")
        return () if tower is base else (tower,)

    def marker_patterns(self) -> list[str]:
        """Return regular expressions of the texts with a meaning of their own: turns, images.

        A word or a space that was added to the vocabulary is none of them.
        """
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        return [re.escape(text) for text in added if not WORDS.fullmatch(text)]

    def make_inputs(
        self,
        texts: list[str],
        images: list[list[LazyImage]],
        padding_side: PaddingSide,
    ) -> Batch:
        """Return the model's inputs for full texts and the images of each text."""
        rgb_images = prefetch(attrgetter("rgb"), [image for row in images for image in row])
        nested = [list(islice(rgb_images, len(row))) for row in images]
        settings = self.text_settings(texts, padding_side)
        return dict(self.processor(text=texts, images=nested, **settings))

    def text_settings(self, texts: Sequence[str], padding_side: PaddingSide) -> dict[str, Any]:
        """Return the processor's settings for texts that the chat template made."""
        settings: dict[str, Any] = {
            "padding": True,
            "padding_side": padding_side,
            "return_tensors": "pt",
        }
        return settings | start_setting(self.tokenizer, texts[0])

    def text_length(self, text: str, sizes: Sequence[Size]) -> int:
        """Return the positions of a text with images of these (width, height)."""
        ids = self.tokenizer(text, **start_setting(self.tokenizer, text))["input_ids"]
        return len(ids) + sum(self._measure(size)[0] for size in sizes)

    # The contract.

    def collate(
        self,
        samples: Sequence[Sample],
        *,
        with_answer: bool,
        padding_side: PaddingSide = "right",
    ) -> Batch:
        batch = self.start_batch(samples, with_answer=with_answer, padding_side=padding_side)
        return complete_batch(batch)

    def start_batch(
        self,
        samples: Sequence[Sample],
        *,
        with_answer: bool,
        padding_side: PaddingSide,
    ) -> Batch:
        """Return the batch of `collate`, of which some inputs may still be on their way."""
        images = [arrange_images(sample.images, self.layout) for sample in samples]
        answers = [self._answer(sample.answer) if with_answer else "" for sample in samples]
        texts = [
            self._prompt(sample.question, len(row)) + answer
            for sample, row, answer in zip(samples, images, answers, strict=True)
        ]

        batch = self.make_inputs(texts, images, padding_side)
        if with_answer:
            batch["labels"] = self._labels(batch, answers, padding_side)
        return batch

    def prepare_training(self, samples: Sequence[Sample]) -> None:
        """Do nothing: all adapters train by steps."""

    def train_batch(self, samples: Sequence[Sample]) -> Batch:
        """Return a batch whose logits are computed from the first answer on, not for prompts."""
        batch = self.start_batch(samples, with_answer=True, padding_side=self.train_padding)
        first = int((batch["labels"] != IGNORED).any(0).nonzero()[0])
        # The position before the first answer predicts its first token.
        num_kept = batch["labels"].shape[1] - first + 1
        return batch | {"labels": batch["labels"][:, -num_kept:], "logits_to_keep": num_kept}

    def count_tokens(self, sample: Sample, sizes: Sequence[Size]) -> TokenCount:
        arranged = arrange_sizes(sizes, self.layout)
        answer = self._answer(sample.answer)
        text = self._prompt(sample.question, len(arranged)) + answer
        return TokenCount(total=self.text_length(text, arranged), trained=len(self._ids(answer)))

    def vision_cost(self, size: Size) -> VisionCost:
        """Return an estimate: no tokens are stored, and attention is not counted."""
        modules = self.vision_modules()
        if not modules:
            return VisionCost(num_bytes=0, flops=0.0)

        _, num_values = self._measure(size)
        vision_config = getattr(self.model.config, "vision_config", None)
        patch_size = getattr(vision_config, "patch_size", USUAL_PATCH)
        num_patches = num_values // (3 * patch_size**2)
        flops = tower_flops(
            modules[0],
            num_patches,
            pairs=0,
            layers=0,
            width=0,
        )
        return VisionCost(num_bytes=0, flops=flops)

    def score(self, samples: Sequence[Sample], labels: Sequence[str]) -> Tensor:
        """Score each label in a pass of its own over the whole sequence: right for any model."""
        import torch

        columns = []
        for label in labels:
            answered = [replace(sample, answer=label) for sample in samples]
            batch = self.collate(answered, with_answer=True, padding_side="left")
            columns.append(score_answers(self.model, to_device(batch, self.model)))
        return torch.stack(columns, 1)

    def generate(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[str]:
        prefix = self.collate(samples, with_answer=False, padding_side="left")
        return generate_answers(
            self.model, self.tokenizer, to_device(prefix, self.model), max_new_tokens=max_new_tokens
        )

    def feature_maps(self, images: Sequence[LazyImage]) -> list[FeatureMap]:
        """Return the states of the tower's last layer. Each image is encoded alone."""
        import torch

        family = type(self.model.get_base_model()).__name__
        modules = self.vision_modules()
        if not modules:
            raise NoFeaturesError(
                f"the vision tower of {family} is not found by its usual names; "
                "give its backbone a method vision_modules"
            )

        maps = []
        for pixels in prefetch(self._pixels, images):
            with torch.no_grad():
                states = modules[0](**to_device({"pixel_values": pixels}, self.model))
            square = square_map(getattr(states, "last_hidden_state", None), family)
            maps.append(to_host(square))
        return maps

    def image_features(self, images: Sequence[LazyImage]) -> list[Features]:
        return [pool_map(feature_map) for feature_map in self.feature_maps(images)]

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder, safe_serialization=True)

    def merge(self) -> None:
        merge_adapter(self.model)

    def save_merged(self, folder: Path) -> None:
        self.model.unload().save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def _pixels(self, image: LazyImage) -> Tensor:
        inputs = self.processor.image_processor(images=[image.rgb], return_tensors="pt")
        pixels: Tensor = inputs["pixel_values"]
        return pixels

    # Texts and their tokens. Questions, answers and sizes repeat, so their results are kept.

    @cached_property
    def _prompt(self) -> Callable[[str, int], str]:
        """The function (question, number of images) -> text."""

        @lru_cache(NUM_CACHED)
        def prompt(question: str, num_images: int) -> str:
            self._refuse_markers("question", question)
            content = [{"type": "image"}] * num_images + [{"type": "text", "text": question}]
            return render_template(self.processor, [{"role": "user", "content": content}])

        return prompt

    def _answer(self, answer: str) -> str:
        self._refuse_markers("answer", answer)
        return f"{answer}{self.tokenizer.eos_token}"

    def _refuse_markers(self, kind: str, text: str) -> None:
        match = self._markers.search(text)
        if match is not None:
            raise UserError(
                f"{kind} {text[:60]!r} holds {match[0]!r}, a marker of the model; reword it"
            )

    @cached_property
    def _ids(self) -> Callable[[str], tuple[int, ...]]:
        """The function text -> tokens, without special tokens."""

        @lru_cache(NUM_CACHED)
        def ids(text: str) -> tuple[int, ...]:
            return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

        return ids

    @cached_property
    def _measure(self) -> Callable[[Size], tuple[int, int]]:
        """The function (width, height) -> positions beside the text's own, numbers in its pixels.

        It processes a blank image of that size.
        """
        from PIL import Image

        @lru_cache(NUM_CACHED)
        def measure(size: Size) -> tuple[int, int]:
            blank = LazyImage.of(Image.new("RGB", size))
            text = self._prompt("?", 1)
            inputs = self.make_inputs([text], [[blank]], "right")
            pixels = inputs[self.processor.image_processor.model_input_names[0]]
            num_more = inputs["input_ids"].shape[1] - self.text_length(text, [])
            return num_more, pixels.numel()

        return measure

    def _labels(self, batch: Batch, answers: Sequence[str], padding_side: PaddingSide) -> Tensor:
        """Return labels (B, L): the tokens of each answer, which end its full text."""
        rows = []
        for ids, mask, answer in zip(
            batch["input_ids"], batch["attention_mask"], answers, strict=True
        ):
            full, expected = ids[mask.bool()].tolist(), list(self._ids(answer))
            if full[-len(expected) :] != expected:
                raise UserError(
                    f"the answer {answer!r} is tokenised differently after the prompt; reword it"
                )
            rows.append([IGNORED] * (len(full) - len(expected)) + expected)
        return pad(rows, IGNORED, padding_side)


def _make_contiguous(head: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copy the slice before the output layer: PyTorch makes one product of it, not one a record."""
    return args[0].contiguous(), *args[1:]
