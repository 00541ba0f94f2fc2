"""Llama-3.2-Vision: transformers' own MllamaForConditionalGeneration, and the same class small and random for tests."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vlmbench.backbones.base import PaddingSide, adapted, to_device
from vlmbench.backbones.chat import ChatBackbone, Layout
from vlmbench.backbones.hub import HubConfig, load_adapted
from vlmbench.config import BuildRequest, Engine, ModelConfig, Vision, check_range, schema
from vlmbench.types import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

LANGUAGE_TARGETS = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
VISION_TARGETS = r".*vision_model\..*\.(q_proj|k_proj|v_proj|o_proj|fc1|fc2)"


@schema("model", "llama32")
@dataclass(kw_only=True)
class Llama32Config(HubConfig):
    gigabytes: ClassVar[Mapping[int, int]] = {16: 28, 4: 12}

    path: str = "meta-llama/Llama-3.2-11B-Vision-Instruct"  # hub name or local folder

    def build(self, request: BuildRequest) -> Llama32Backbone:
        model = load_adapted(
            self,
            request,
            model_type="mllama",
            targets=lambda config: targets(request.vision),
            kept_whole=["vision_model", "multi_modal_projector"],
        )
        return Llama32Backbone(model, load_processor(self.path), layout=self.layout, request=request)


@schema("model", "llama32_tiny")
@dataclass(kw_only=True)
class Llama32TinyConfig(ModelConfig):
    layout: Layout = Layout.two_images
    max_tokens: int = 512  # the longest sequence it takes

    def __post_init__(self) -> None:
        check_range("model.max_tokens", self.max_tokens, 16)

    def requirements(self) -> Sequence[str]:
        return []

    def build(self, request: BuildRequest) -> Llama32Backbone:
        from vlmbench.models.llama32_tiny import tiny_mllama, tiny_processor

        if request.engine is Engine.unsloth:
            raise UserError("trainer.engine=unsloth: llama32_tiny is for tests; set trainer.engine=transformers")
        processor = tiny_processor()
        base = tiny_mllama(processor.tokenizer, max_tokens=self.max_tokens)
        base = base if request.weights else base.to("meta")
        model = adapted(base, request, lora=self.lora, targets=targets(request.vision))
        return Llama32Backbone(model, processor, layout=self.layout, request=request)


def targets(vision: Vision) -> str:
    """The modules that get adapters."""
    return f"{LANGUAGE_TARGETS}|{VISION_TARGETS}" if vision is Vision.lora else LANGUAGE_TARGETS


def load_processor(path: str) -> Any:
    """The processor with the PIL image backend: the same pixels with and without torchvision."""
    from transformers import MllamaImageProcessorPil, MllamaProcessor

    processor = MllamaProcessor.from_pretrained(path)
    processor.image_processor = MllamaImageProcessorPil.from_pretrained(path)
    return processor


# Its warning stands once a layer and batch; transformers mends it in 5.20.
warnings.filterwarnings("ignore", message="`hidden_state` is deprecated", category=FutureWarning)


class Llama32Backbone(ChatBackbone):
    """Pictures stand next to each other before the text: with text between them, Mllama hides the first one."""

    def _vision_modules(self) -> Sequence[Any]:
        base = self.model.get_base_model().model
        return base.vision_model, base.multi_modal_projector

    def _process(self, texts: list[str], pictures: list[list[Image]], padding_side: PaddingSide) -> dict[str, Tensor]:
        inputs = self.processor(
            text=texts,
            images=pictures,
            padding=True,
            padding_side=padding_side,
            add_special_tokens=False,  # the chat template has the text's beginning
            return_tensors="pt",
        )
        batch = dict(inputs)
        _fill_missing_pictures(batch, [len(shown) for shown in pictures])
        return batch

    def _encode(self, image: Image) -> Tensor:
        inputs = self.processor.image_processor(images=[[image]], return_tensors="pt")
        tiles = int(inputs.pop("num_tiles")[0][0])
        vision_model, projector = self._vision_modules()
        states: Tensor = projector(vision_model(**to_device(inputs, self.model)).last_hidden_state)
        return states[0, 0, :tiles].flatten(0, 1)

    def _length(self, text: str, sizes: Sequence[tuple[int, int]]) -> int:
        return len(self._ids(text))  # a picture takes one position

    def _continued(self, prefix: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
        """The new tokens see the pictures that the prefix's last one saw."""
        import torch

        seen = prefix["cross_attention_mask"]
        mask = torch.cat([seen, seen[:, -1:].expand(-1, n, -1, -1)], 1)
        return super()._continued(prefix, n) | {"cross_attention_mask": mask}


def _fill_missing_pictures(batch: dict[str, Tensor], counts: Sequence[int]) -> None:
    """Where a batch mixes one picture and two, repeat the last picture in the places that would be empty.

    No word of the text sees them; but Mllama's words before the pictures attend evenly to all places, so that what is
    there would depend on the batch's other records.
    """
    for row, count in enumerate(counts):
        for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"):
            batch[name][row, count:] = batch[name][row, count - 1]
