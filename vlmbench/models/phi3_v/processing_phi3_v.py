"""Texts and pictures together: ids with a run of placeholders where each picture goes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from PIL.Image import Image
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

from vlmbench.models.phi3_v.image_processing_phi3_v import Phi3VImageProcessor, PictureError

TAG = re.compile(r"<\|image_(\d+)\|>")

# The published template, and picture parts: each becomes its numbered tag on a line of its own.
CHAT_TEMPLATE = (
    "{%- set pictures = namespace(count=0) -%}"
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>\n' -}}"
    "{%- if message['content'] is string -%}"
    "{{- message['content'] -}}"
    "{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}"
    "{%- set pictures.count = pictures.count + 1 -%}"
    "{{- '<|image_' + pictures.count | string + '|>\n' -}}"
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
    """The tokenizer's and the image processor's settings of one call."""

    _defaults = {"text_kwargs": {"padding": False}}  # noqa: RUF012


class Phi3VProcessor(ProcessorMixin):
    """Phi-3-vision's processor: `<|image_1|>`, `<|image_2|>`, ... in a text stand for its pictures.

    `image_token_id` fills a picture's positions; it must be the model's `config.image_token_id`.
    """

    valid_processor_kwargs = Phi3VProcessorKwargs

    def __init__(
        self,
        image_processor: Phi3VImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        image_token_id: int = 32044,
    ) -> None:
        self.image_token = "<|image|>"  # noqa: S105 - what id 32044 is called in the published vocabulary
        self.image_token_id = image_token_id
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> list[Any]:
        # By name: the automatic choice of an image processor depends on whether torchvision is installed.
        image_processor = Phi3VImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        # A tokenizer would keep settings such as num_crops, and override the image processor's with them later.
        for name in ("num_crops", "tile_size", "num_img_tokens"):
            kwargs.pop(name, None)
        # Not Llama's class: that rebuilds the published tokenizer, and with other ids.
        return [image_processor, AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)]

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: ImageInput | Sequence[Sequence[ImageInput]] | None = None,
        num_img_tokens: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """`input_ids` and `attention_mask` of a text or a batch, and `pixel_values` and `image_sizes` of its pictures.

        A text's tags are numbered from 1, each once, in any order: `<|image_2|>` is its second picture. `images` are
        the pictures of each text; a flat list is dealt out by the tags. The output's pictures are in the order of
        the tags. Where the pictures' tokens are ready already, `num_img_tokens` gives their numbers instead, text by
        text in the order of the pictures, and no pixels come out.

        Each stretch of text between tags is tokenized by itself, with its own `<s>`, as the model was trained.
        Raises PictureError where tags and pictures do not match, and where truncation would cut into a picture.
        """
        if text is None:
            raise ValueError("Phi3VProcessor needs text; for pictures alone call its image_processor")
        if images is not None and num_img_tokens is not None:
            raise ValueError("pass images or num_img_tokens, not both")
        texts = [text] if isinstance(text, str) else list(text)
        settings = self._merge_kwargs(
            self.valid_processor_kwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs
        )
        orders = [[int(number) for number in TAG.findall(one)] for one in texts]
        dealt = _deal(images if num_img_tokens is None else num_img_tokens, orders)
        in_order = [value for row, order in zip(dealt, orders, strict=True) for value in _arrange(row, order)]

        pictures: dict[str, Any] = {}
        counts = in_order
        if num_img_tokens is None and in_order:
            pictures = dict(self.image_processor(in_order, **{**settings["images_kwargs"], "return_tensors": "np"}))
            counts = pictures.pop("num_img_tokens").tolist()
        encoded = self._encode(texts, iter(counts), settings["text_kwargs"])
        return BatchFeature({**encoded, **pictures}, tensor_type=settings["text_kwargs"].get("return_tensors"))

    def _encode(self, texts: Sequence[str], counts: Any, settings: dict[str, Any]) -> dict[str, Any]:
        add_special_tokens = settings.get("add_special_tokens", True)
        max_length = settings.get("max_length") if settings.get("truncation") else None
        rows = []
        for text in texts:
            # re.split keeps the tags' numbers, at the odd places.
            chunks = self.tokenizer(TAG.split(text)[::2], add_special_tokens=add_special_tokens)["input_ids"]
            if any(self.image_token_id in chunk for chunk in chunks):
                raise PictureError(f"text {text!r}: {self.image_token} is for pictures; write <|image_1|>, <|image_2|>")
            ids = list(chunks[0])
            for chunk in chunks[1:]:
                ids += [self.image_token_id] * next(counts) + list(chunk)
            rows.append(self._truncated(ids, max_length))
        padding = {
            name: settings[name]
            for name in ("padding", "max_length", "pad_to_multiple_of", "padding_side", "return_attention_mask")
            if settings.get(name) is not None
        }
        return dict(self.tokenizer.pad({"input_ids": rows}, **padding))

    def _truncated(self, ids: list[int], max_length: int | None) -> list[int]:
        if max_length is None or len(ids) <= max_length:
            return ids
        kept, cut = ids[:max_length], ids[max_length:]
        if self.image_token_id in cut:
            raise PictureError(
                f"text of {len(ids)} tokens: max_length={max_length} cuts into a picture; raise max_length or lower "
                "num_crops"
            )
        return kept

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.image_processor.model_input_names]


def _deal(values: Any, orders: Sequence[Sequence[int]]) -> list[list[Any]]:
    """The pictures (or their numbers of tokens) of each text; a flat list is dealt out by the number of tags."""
    if values is None:
        return [[] for _ in orders]
    if isinstance(values, Image) or not isinstance(values, (list, tuple)):
        values = [values]
    if all(isinstance(row, (list, tuple)) for row in values):
        if len(values) != len(orders):
            raise PictureError(f"{len(orders)} texts, but pictures for {len(values)}; pass one list of pictures a text")
        return [list(row) for row in values]
    wanted = [len(order) for order in orders]
    if len(orders) == 1:
        return [list(values)]
    if len(values) != sum(wanted):
        raise PictureError(f"{len(values)} pictures, but {sum(wanted)} picture tags in {len(orders)} texts")
    remaining = iter(values)
    return [[next(remaining) for _ in range(count)] for count in wanted]


def _arrange(values: Sequence[Any], order: Sequence[int]) -> list[Any]:
    """The values in the order of the tags. Raises PictureError unless each has its tag, once."""
    if sorted(order) != list(range(1, len(values) + 1)):
        tags = " ".join(f"<|image_{number}|>" for number in order) or "none"
        raise PictureError(
            f"{len(values)} pictures, but the text's picture tags are: {tags}; give each picture its tag once, "
            "numbered from <|image_1|>"
        )
    return [values[number - 1] for number in order]


__all__ = ["Phi3VProcessor", "Phi3VProcessorKwargs"]
