"""Llama-3.2-Vision: transformers' own MllamaForConditionalGeneration, and the same class small and random for tests."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmbench.backbones.base import (
    IGNORED,
    PaddingSide,
    TokenCount,
    adapted,
    continued_text,
    generate_answers,
    pad,
    positions,
    score_labels,
    seed_everything,
    to_device,
    without_gradients,
)
from vlmbench.backbones.hub import missing_weights
from vlmbench.config import BuildRequest, Engine, LoraConfig, ModelConfig, Vision, check_range, schema
from vlmbench.types import Sample, UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

LANGUAGE_TARGETS = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
VISION_TARGETS = r".*vision_model\..*\.(q_proj|k_proj|v_proj|o_proj|fc1|fc2)"
GIGABYTES = {16: 28, 4: 12}  # of GPU memory that training takes at least, by bits
GAP = 16  # pixels between the pictures of a stitched pair


class Layout(StrEnum):
    two_images = "two_images"  # the pair as two pictures, next to each other before the text
    stitched = "stitched"  # side by side on one canvas: the publisher advises one picture a prompt


@schema("model", "llama32")
@dataclass(kw_only=True)
class Llama32Config(ModelConfig):
    unsloth = True

    path: str = "meta-llama/Llama-3.2-11B-Vision-Instruct"  # hub name or local folder
    bits: int = 16
    layout: Layout = Layout.two_images

    def __post_init__(self) -> None:
        if self.bits not in GIGABYTES:
            raise UserError(f"model.bits={self.bits}: it must be 16 or 4; set model.bits=16 or model.bits=4")

    def requirements(self) -> Sequence[str]:
        import torch

        lacking = list(missing_weights(self.path))
        if not torch.cuda.is_available():
            return [*lacking, "there is no CUDA GPU"]
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        if memory < GIGABYTES[self.bits]:
            lacking.append(f"{memory:.0f} GB of GPU memory are less than the {GIGABYTES[self.bits]} GB it takes")
        return lacking

    def build(self, request: BuildRequest) -> Llama32Backbone:
        if request.engine is Engine.unsloth and request.weights:
            from vlmbench.backbones import _unsloth  # before transformers, which it changes

            seed_everything(request.seed)
            model = _unsloth.load(self.path, request, bits=self.bits, lora=self.lora)
        else:
            model = _adapted(self._load() if request.weights else self._meta(), request, self.lora)
        return Llama32Backbone(model, load_processor(self.path), layout=self.layout, request=request)

    def _load(self) -> Any:
        import torch
        from peft import prepare_model_for_kbit_training
        from transformers import BitsAndBytesConfig, MllamaForConditionalGeneration

        quantization = None
        if self.bits == 4:
            quantization = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
            )
        model = MllamaForConditionalGeneration.from_pretrained(
            self.path, dtype=torch.bfloat16, quantization_config=quantization, device_map={"": 0}
        )
        if self.bits == 4:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return model

    def _meta(self) -> Any:
        import torch
        from transformers import MllamaConfig, MllamaForConditionalGeneration

        with torch.device("meta"):
            return MllamaForConditionalGeneration(MllamaConfig.from_pretrained(self.path))


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
        model = _adapted(base if request.weights else base.to("meta"), request, self.lora)
        return Llama32Backbone(model, processor, layout=self.layout, request=request)


def load_processor(path: str) -> Any:
    """The processor with the PIL image backend: the same pixels with and without torchvision."""
    from transformers import MllamaImageProcessorPil, MllamaProcessor

    processor = MllamaProcessor.from_pretrained(path)
    processor.image_processor = MllamaImageProcessorPil.from_pretrained(path)
    return processor


def _adapted(base: Any, request: BuildRequest, lora: LoraConfig) -> Any:
    if request.vision is Vision.lora:
        return adapted(base, request, lora=lora, targets=f"{LANGUAGE_TARGETS}|{VISION_TARGETS}")
    without_gradients(base.model.vision_model)
    without_gradients(base.model.multi_modal_projector)
    return adapted(base, request, lora=lora, targets=LANGUAGE_TARGETS)


# Its warning stands once a layer and batch; transformers mends it in 5.20.
warnings.filterwarnings("ignore", message="`hidden_state` is deprecated", category=FutureWarning)


class Llama32Backbone:
    """Pictures stand next to each other before the text: with text between them, Mllama hides the first one."""

    def __init__(self, model: Any, processor: Any, *, layout: Layout, request: BuildRequest) -> None:
        self.model, self.processor, self.layout = model, processor, layout
        self.tokenizer = processor.tokenizer
        self.vision, self.engine = request.vision, request.engine
        self.max_tokens = int(model.config.text_config.max_position_embeddings)

    def collate(
        self, samples: Sequence[Sample], *, with_answer: bool, padding_side: PaddingSide = "right"
    ) -> dict[str, Tensor]:
        texts = [self._prompt(sample.question, len(self._pictures(sample.images))) for sample in samples]
        prompts = [self._ids(text) for text in texts]
        if with_answer:
            texts = [text + self._answer(sample.answer) for text, sample in zip(texts, samples, strict=True)]
        batch = dict(
            self.processor(
                text=texts,
                images=[self._pictures(sample.images) for sample in samples],
                padding=True,
                padding_side=padding_side,
                add_special_tokens=False,
                return_tensors="pt",
            )
        )
        _fill_missing_pictures(batch, [len(self._pictures(sample.images)) for sample in samples])
        batch["position_ids"] = positions(batch["attention_mask"])
        if with_answer:
            batch["labels"] = self._labels(batch, prompts, padding_side)
        return batch

    def count_tokens(self, sample: Sample, sizes: Sequence[tuple[int, int]]) -> TokenCount:
        pictures = 1 if self.layout is Layout.stitched else len(sizes)
        prompt = self._prompt(sample.question, pictures)
        total = len(self._ids(prompt + self._answer(sample.answer)))
        return TokenCount(total=total, trained=total - len(self._ids(prompt)))

    def encode(self, images: Sequence[Image]) -> list[Tensor]:
        """(tiles x patches, hidden) of each picture after the projector; only tiles that show something."""
        import torch

        base = self.model.get_base_model().model
        encoded = []
        for image in images:
            inputs = self.processor.image_processor(images=[[image]], return_tensors="pt")
            tiles = int(inputs.pop("num_tiles")[0][0])
            inputs = to_device(inputs, self.model)
            with torch.inference_mode():
                states = base.vision_model(**inputs).last_hidden_state
                states = base.multi_modal_projector(states)[0, 0, :tiles]
            encoded.append(states.flatten(0, 1))
        return encoded

    def fingerprint(self) -> str:
        base = self.model.get_base_model().model
        digest = hashlib.sha256(self.processor.image_processor.to_json_string().encode())
        for module in (base.vision_model, base.multi_modal_projector):
            for name, tensor in module.state_dict().items():
                digest.update(f"{name} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(_bytes_dtype()).numpy().tobytes())
        return digest.hexdigest()[:32]

    def score(self, samples: Sequence[Sample], labels: Sequence[str]) -> Tensor:
        prefix = to_device(self.collate(samples, with_answer=False, padding_side="left"), self.model)
        ids = [self._ids(label) for label in labels]
        return score_labels(self.model, prefix, ids, continuation=_continued)

    def generate(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[str]:
        prefix = to_device(self.collate(samples, with_answer=False, padding_side="left"), self.model)
        return generate_answers(self.model, self.tokenizer, prefix, max_new_tokens=max_new_tokens)

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder, safe_serialization=True)

    def _pictures(self, images: Sequence[Image]) -> list[Image]:
        if self.layout is Layout.stitched and len(images) > 1:
            return [stitch(images)]
        return list(images)

    def _prompt(self, question: str, num_images: int) -> str:
        for token in self.tokenizer.all_special_tokens:
            if token in question:
                raise UserError(f"question {question[:60]!r} holds {token!r}, a marker of the model; reword it")
        content = [{"type": "image"}] * num_images + [{"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _answer(self, answer: str) -> str:
        return f"{answer}{self.tokenizer.eos_token}"

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _labels(self, batch: Mapping[str, Tensor], prompts: Sequence[list[int]], side: PaddingSide) -> Tensor:
        """The ids of the answers, found by the prompts' lengths in the tokens of the full texts."""
        rows = []
        for ids, mask, prompt in zip(batch["input_ids"], batch["attention_mask"], prompts, strict=True):
            full = ids[mask.bool()].tolist()
            if full[: len(prompt)] != prompt:
                raise UserError(f"the answer changes the tokens of the prompt {self.tokenizer.decode(prompt)!r}")
            rows.append([IGNORED] * len(prompt) + full[len(prompt) :])
        return pad(rows, IGNORED, side)


def _fill_missing_pictures(batch: dict[str, Tensor], counts: Sequence[int]) -> None:
    """Where a batch mixes one picture and two, repeat the last picture in the places that would be empty.

    No word of the text sees them; but Mllama's words before the pictures attend evenly to all places, so that what is
    there would depend on the batch's other records.
    """
    for row, count in enumerate(counts):
        for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"):
            batch[name][row, count:] = batch[name][row, count - 1]


def stitch(images: Sequence[Image]) -> Image:
    """The pictures side by side on white, scaled to the height of the tallest."""
    from PIL import Image

    height = max(image.height for image in images)
    scaled = [image.resize((max(1, round(image.width * height / image.height)), height)) for image in images]
    canvas = Image.new("RGB", (sum(image.width for image in scaled) + GAP * (len(scaled) - 1), height), "white")
    left = 0
    for image in scaled:
        canvas.paste(image, (left, 0))
        left += image.width + GAP
    return canvas


def _continued(prefix: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    """The text's continuation; the new tokens see the pictures that the prefix's last one saw."""
    import torch

    seen = prefix["cross_attention_mask"]
    return continued_text(prefix, n) | {
        "cross_attention_mask": torch.cat([seen, seen[:, -1:].expand(-1, n, -1, -1)], 1)
    }


def _bytes_dtype() -> Any:
    import torch

    return torch.uint8
