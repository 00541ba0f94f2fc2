"""Phi-3-vision and Phi-3.5-vision: vlmbench's own port of them, and the same classes small and random for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vlmbench.backbones.base import PENDING, PaddingSide, adapted, tower_flops
from vlmbench.backbones.chat import ChatBackbone, Layout
from vlmbench.backbones.hub import HubConfig, import_engine, load_adapted, load_exported
from vlmbench.config import BuildRequest, Engine, ModelConfig, Vision, check_range, schema
from vlmbench.types import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vlmbench.features.store import Fetched

# Queries, keys and values are one matrix in this family, and so are gate and up: one adapter serves all its parts.
LANGUAGE_TARGETS = r".*\.(qkv_proj|o_proj|gate_up_proj|down_proj)"
TURN_END = "<|end|>"


@schema("model", "phi3")
@dataclass(kw_only=True)
class Phi3Config(HubConfig):
    licence = "Phi-3-vision and Phi-3.5-vision are under the MIT licence; keep its notice with the weights."
    gigabytes: ClassVar[Mapping[int, int]] = {16: 14, 4: 8}

    path: str = "microsoft/Phi-3-vision-128k-instruct"  # hub name or local folder
    num_crops: int = 4  # tiles of 336 pixels that a picture is cut into, at most

    def __post_init__(self) -> None:
        HubConfig.__post_init__(self)
        check_range("model.num_crops", self.num_crops, 1)

    def build(self, request: BuildRequest) -> Phi3Backbone:
        import_engine(request)
        from vlmbench.models.phi3_v import Phi3VProcessor  # registers the type

        model = load_adapted(
            self,
            request,
            model_type="phi3_v",
            targets=lambda config: targets(config, request.vision),
            kept_whole=["vision_embed_tokens"],
        )
        processor = Phi3VProcessor.from_pretrained(
            self.weights_at(request), num_crops=self.num_crops, trust_remote_code=False
        )
        return Phi3Backbone(model, processor, layout=self.layout, request=request)


@schema("model", "phi35")
@dataclass(kw_only=True)
class Phi35Config(Phi3Config):
    path: str = "microsoft/Phi-3.5-vision-instruct"


@schema("model", "phi3_tiny")
@dataclass(kw_only=True)
class Phi3TinyConfig(ModelConfig):
    layout: Layout = Layout.two_images
    num_crops: int = 4
    max_tokens: int = 512  # the longest sequence it takes

    def __post_init__(self) -> None:
        check_range("model.num_crops", self.num_crops, 1)
        check_range("model.max_tokens", self.max_tokens, 16)

    def requirements(self) -> Sequence[str]:
        return []

    def build(self, request: BuildRequest) -> Phi3Backbone:
        from vlmbench.models.phi3_v import Phi3VProcessor
        from vlmbench.models.phi3_v_tiny import tiny_phi3_processor, tiny_phi3_v

        if request.engine is Engine.unsloth:
            raise UserError("trainer.engine=unsloth: phi3_tiny is for tests; set trainer.engine=transformers")
        if request.merged is not None:
            processor, base = Phi3VProcessor.from_pretrained(request.merged), load_exported(request.merged)
        else:
            processor = tiny_phi3_processor(self.num_crops)
            base = tiny_phi3_v(processor.tokenizer, max_tokens=self.max_tokens)
        base = base if request.weights else base.to("meta")
        model = adapted(base, request, lora=self.lora, targets=targets(base.config, request.vision))
        return Phi3Backbone(model, processor, layout=self.layout, request=request)


def targets(config: Any, vision: Vision) -> str:
    """The modules that get adapters: in the tower, only the layers that are run."""
    if vision is Vision.frozen:
        return LANGUAGE_TARGETS
    layer = config.vision_feature_layer
    num_layers = layer if layer >= 0 else config.vision_config.num_hidden_layers + 1 + layer
    numbers = "|".join(str(number) for number in range(num_layers))
    return (
        rf"{LANGUAGE_TARGETS}|.*vision_model\.encoder\.layers\.({numbers})\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
    )


class Phi3Backbone(ChatBackbone):
    """Each picture stands on a line of its own under its number, the question below them."""

    # Pictures make rows long: with nothing empty before what counts, attention takes no mask, and so less than half of
    # the work.
    train_padding = "right"

    def __init__(self, model: Any, processor: Any, *, layout: Layout, request: BuildRequest) -> None:
        processor.tokenizer.eos_token = TURN_END
        super().__init__(model, processor, layout=layout, request=request)

    def _vision_modules(self) -> Sequence[Any]:
        return (self.model.get_base_model().model.vision_embed_tokens,)

    def _may_look(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Nobody looks at what comes later, what pads included: no mask, and positions count up to the longest row's
        end. Of positions that repeat, as in what pads, Unsloth makes a mask of pairs, which takes attention's fast
        kernels away; of a mask it has to see that it is full.

        Where only some rows leave the original context, the others must not seem to (LongRoPE).
        """
        import torch

        context, shortest = self._original_context(), int(batch["position_ids"].amax(1).min()) + 1
        if context is not None and shortest <= context < batch["input_ids"].shape[1]:
            return batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}
        return {name: value for name, value in batch.items() if name not in ("attention_mask", "position_ids")}

    def _original_context(self) -> int | None:
        """Rows of more positions have all their keys rotated otherwise (LongRoPE)."""
        rope = self.model.config.text_config.rope_parameters
        return int(rope["original_max_position_embeddings"]) if rope["rope_type"] == "longrope" else None

    def _marker_patterns(self) -> list[str]:
        from vlmbench.models.phi3_v.processing_phi3_v import TAG

        return [*super()._marker_patterns(), TAG.pattern]

    def _place(
        self, texts: list[str], fetched: Fetched, counts: list[int], padding_side: PaddingSide
    ) -> dict[str, Any]:
        lengths = iter(fetched.lengths)
        inputs = self.processor(
            text=texts,
            num_img_tokens=[[next(lengths) for _ in range(count)] for count in counts],
            padding=True,
            padding_side=padding_side,
            return_tensors="pt",
        )
        return {**inputs, PENDING: lambda: {"image_features": fetched.wait()}}

    def _prepare(self, image: Image) -> dict[str, Any]:
        inputs = dict(self.processor.image_processor(images=[image], return_tensors="pt"))
        inputs.pop("num_img_tokens")
        return inputs

    def _encode(self, inputs: dict[str, Any]) -> Tensor:
        tokens: Tensor = self.model.get_base_model().get_image_features(**inputs)[0]
        return tokens

    def _length(self, text: str, sizes: Sequence[tuple[int, int]]) -> int:
        count = self.processor.image_processor.get_num_img_tokens
        counts = [count(height, width) for width, height in sizes]
        return len(self.processor(text=text, num_img_tokens=[counts])["input_ids"][0])

    def _tokens_and_flops(self, size: tuple[int, int]) -> tuple[int, float]:
        from vlmbench.models.phi3_v.image_processing_phi3_v import hd_size

        processor, config = self.processor.image_processor, self.model.config.vision_config
        *_, width, height = hd_size(*size, processor.num_crops, processor.tile_size)
        tiles = (width // processor.tile_size) * (height // processor.tile_size) + 1  # and the whole view
        positions = (config.image_size // config.patch_size) ** 2 + 1
        (embedding,) = self._vision_modules()
        tower = embedding.img_processor["vision_model"]
        one = tower_flops(
            tower, positions, pairs=positions**2, layers=config.num_hidden_layers, width=config.hidden_size
        )
        return processor.get_num_img_tokens(size[1], size[0]), tiles * one

    def _may_continue(self, prefix: Mapping[str, Tensor], label_ids: Sequence[Sequence[int]]) -> bool:
        """Past the original context the keys in the cache are wrong."""
        context = self._original_context()
        if context is None:
            return True
        lengths = prefix["attention_mask"].sum(1)
        longest = max(len(ids) for ids in label_ids) - 1
        return not bool(((lengths <= context) & (lengths + longest > context)).any())
