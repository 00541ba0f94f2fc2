"""Texts and images together: token ids with a series of placeholders at each image's position."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from PIL.Image import Image
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

from vlmbench.models.phi3_v.image_processing_phi3_v import ImageError, Phi3VImageProcessor

TAG = re.compile(r"<\|image_(\d+)\|>")
# Settings of a call that the tokenizer's padding takes.
PADDING_SETTINGS = (
    "padding",
    "max_length",
    "pad_to_multiple_of",
    "padding_side",
    "return_attention_mask",
)

# The published template, extended by images: each becomes a numbered tag on its own line.
CHAT_TEMPLATE = (
    "{%- set images = namespace(count=0) -%}"
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>\n' -}}"
    "{%- if message['content'] is string -%}"
    "{{- message['content'] -}}"
    "{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}"
    "{%- set images.count = images.count + 1 -%}"
    "{{- '<|image_' + images.count | string + '|>\n' -}}"
    "{%- else -%}"
    "{{- part['text'] -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt and messages[-1]['role'] != 'assistant' -%}"
    "{{- '<|assistant|>\n' -}}"
    "{%- endif -%}"
)


class Phi3VProcessorKwargs(ProcessingKwargs, total=False):
    """Settings of the tokenizer and the image processor for one call."""

    _defaults = {"text_kwargs": {"padding": False}}  # noqa: RUF012


class Phi3VProcessor(ProcessorMixin):
    """Phi-3-vision's processor. The tags `<|image_1|>`, `<|image_2|>`, ... in a text stand for its
    images.

    `image_token_id` fills an image's positions. It must be the model's `config.image_token_id`.
    """

    valid_processor_kwargs = Phi3VProcessorKwargs

    def __init__(
        self,
        image_processor: Phi3VImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        image_token_id: int = 32044,
    ) -> None:
        self.image_token = "<|image|>"  # noqa: S105 - the word of id 32044
        self.image_token_id = image_token_id
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any
    ) -> list[Any]:
        # Not AutoImageProcessor, whose choice depends on whether torchvision is installed.
        image_processor = Phi3VImageProcessor.from_pretrained(
            pretrained_model_name_or_path, **kwargs
        )
        # The tokenizer would keep these settings and later override the image processor's.
        for name in ("num_crops", "tile_size", "num_img_tokens"):
            kwargs.pop(name, None)
        # Not Llama's class, which rebuilds the published tokenizer with other ids.
        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)

        return [image_processor, tokenizer]

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: ImageInput | Sequence[Sequence[ImageInput]] | None = None,
        num_img_tokens: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Return `input_ids` and `attention_mask` of texts, `pixel_values` and `image_sizes` of
        images.

        The tags of a text have numbers from 1, each once, in any order: `<|image_2|>` is its second
        image. `images` holds the images of each text. A flat list is distributed by the number of
        tags. The output has the images in the order of the tags. `num_img_tokens` replaces `images`
        if the images' tokens exist already: the numbers of tokens of each text's images. The output
        then has no pixels.

        The processor tokenises each section of text between tags separately, with its own `<s>`, as
        the model was trained. Raise ImageError if tags and images do not match, or if truncation
        would cut an image.
        """
        if text is None:
            raise ValueError("Phi3VProcessor needs text; for images alone call its image_processor")
        if images is not None and num_img_tokens is not None:
            raise ValueError("pass images or num_img_tokens, not both")

        texts = [text] if isinstance(text, str) else list(text)
        settings = self._merge_kwargs(
            self.valid_processor_kwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs
        )

        orders = [[int(number) for number in TAG.findall(text)] for text in texts]
        rows = _distribute(images if num_img_tokens is None else num_img_tokens, orders)
        values = [
            value
            for row, order in zip(rows, orders, strict=True)
            for value in _sort_by_tags(row, order)
        ]

        encoded_images: dict[str, Any] = {}
        counts = values
        if num_img_tokens is None and values:
            images_kwargs = {**settings["images_kwargs"], "return_tensors": "np"}
            encoded_images = dict(self.image_processor(values, **images_kwargs))
            counts = encoded_images.pop("num_img_tokens").tolist()

        encoded_texts = self._encode(texts, iter(counts), settings["text_kwargs"])
        return BatchFeature(
            {**encoded_texts, **encoded_images},
            tensor_type=settings["text_kwargs"].get("return_tensors"),
        )

    def _encode(
        self, texts: Sequence[str], counts: Iterator[int], settings: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the padded token ids of texts. `counts` are the numbers of tokens of all
        images."""
        add_special_tokens = settings.get("add_special_tokens", True)
        max_length = settings.get("max_length") if settings.get("truncation") else None

        rows = []
        for text in texts:
            # re.split returns the tags' numbers at odd positions.
            sections = TAG.split(text)[::2]
            chunks = self.tokenizer(sections, add_special_tokens=add_special_tokens)["input_ids"]
            if any(self.image_token_id in chunk for chunk in chunks):
                raise ImageError(
                    f"text {text!r}: {self.image_token} is for images; "
                    "write <|image_1|>, <|image_2|>"
                )

            ids = list(chunks[0])
            for chunk in chunks[1:]:
                ids += [self.image_token_id] * next(counts) + list(chunk)
            rows.append(self._truncate(ids, max_length))

        padding = {
            name: settings[name] for name in PADDING_SETTINGS if settings.get(name) is not None
        }
        return dict(self.tokenizer.pad({"input_ids": rows}, **padding))

    def _truncate(self, ids: list[int], max_length: int | None) -> list[int]:
        if max_length is None or len(ids) <= max_length:
            return ids

        kept, cut = ids[:max_length], ids[max_length:]
        if self.image_token_id in cut:
            raise ImageError(
                f"text of {len(ids)} tokens: max_length={max_length} cuts an image; "
                "raise max_length or lower num_crops"
            )
        return kept

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.image_processor.model_input_names]


def _distribute(values: Any, orders: Sequence[Sequence[int]]) -> list[list[Any]]:
    """Return the images (or their numbers of tokens) of each text.

    A flat list is distributed by the number of tags in each text.
    """
    if values is None:
        return [[] for _ in orders]
    if isinstance(values, Image) or not isinstance(values, (list, tuple)):
        values = [values]

    if all(isinstance(row, (list, tuple)) for row in values):
        if len(values) != len(orders):
            raise ImageError(
                f"{len(orders)} texts, but images for {len(values)}; "
                "pass one list of images for each text"
            )
        return [list(row) for row in values]

    if len(orders) == 1:
        return [list(values)]

    counts = [len(order) for order in orders]
    if len(values) != sum(counts):
        raise ImageError(
            f"{len(values)} images, but {sum(counts)} image tags in {len(orders)} texts; "
            "give each image one tag"
        )

    remaining = iter(values)
    return [[next(remaining) for _ in range(count)] for count in counts]


def _sort_by_tags(values: Sequence[Any], order: Sequence[int]) -> list[Any]:
    """Return the values in the order of the tags. Raise ImageError unless each has one tag."""
    if sorted(order) != list(range(1, len(values) + 1)):
        tags = " ".join(f"<|image_{number}|>" for number in order) or "none"
        raise ImageError(
            f"{len(values)} images, but the text's image tags are: {tags}; "
            "give each image one tag, numbered from <|image_1|>"
        )

    return [values[number - 1] for number in order]


__all__ = ["Phi3VProcessor", "Phi3VProcessorKwargs"]
