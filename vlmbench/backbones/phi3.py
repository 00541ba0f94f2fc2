"""Phi-3-vision and Phi-3.5-vision: vlmbench's own port of them, and its tiny random twin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vlmbench.backbones.batches import Batch, PaddingSide
from vlmbench.backbones.family import ChatFamily
from vlmbench.backbones.hub import HubConfig
from vlmbench.backbones.layout import Layout, Size
from vlmbench.backbones.maps import crop_map
from vlmbench.backbones.tiny import TinyConfig
from vlmbench.backbones.tokens import PlacedTokens, TokenBackbone
from vlmbench.backbones.towers import tower_flops
from vlmbench.config import BuildRequest, Vision, schema, setting

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vlmbench.features.store import Fetched

TURN_END = "<|end|>"


class Phi3Backbone(TokenBackbone):
    """Each image stands under its number on a line of its own, and the question follows."""

    # Images make rows long. With padding at the end, attention needs no mask: half of the work.
    train_padding = "right"
    lanes = 2

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        layout: Layout,
        request: BuildRequest,
    ) -> None:
        from vlmbench.backbones._replay import Replay

        processor.tokenizer.eos_token = TURN_END
        super().__init__(model, processor, layout=layout, request=request)
        if self.reads_tokens:
            (embedding,) = self.vision_modules()
            embedding.encode = Replay(embedding.encode)

    def vision_modules(self) -> Sequence[Any]:
        return (self.model.get_base_model().model.vision_embed_tokens,)

    def marker_patterns(self) -> list[str]:
        from vlmbench.models.phi3_v.processing_phi3_v import TAG

        return [*super().marker_patterns(), TAG.pattern]

    def prepare_image(self, image: Image) -> Batch:
        inputs = dict(self.processor.image_processor(images=[image], return_tensors="pt"))
        inputs.pop("num_img_tokens")
        return inputs

    def encode_image(self, inputs: Batch) -> Tensor:
        tokens: Tensor = self.model.get_base_model().get_image_features(**inputs)[0]
        return tokens

    def insert_tokens(
        self,
        texts: list[str],
        fetched: Fetched,
        counts: list[int],
        padding_side: PaddingSide,
    ) -> PlacedTokens:
        lengths = iter(fetched.lengths)
        inputs = self.processor(
            text=texts,
            num_img_tokens=[[next(lengths) for _ in range(count)] for count in counts],
            **self.text_settings(texts, padding_side),
        )
        return dict(inputs), lambda: {"image_features": fetched.wait()}

    def text_length(self, text: str, sizes: Sequence[Size]) -> int:
        count = self.processor.image_processor.get_num_img_tokens
        counts = [count(height, width) for width, height in sizes]
        return len(self.processor(text=text, num_img_tokens=[counts])["input_ids"][0])

    def tower_cost(self, size: Size) -> tuple[int, float]:
        from vlmbench.models.phi3_v.image_processing_phi3_v import hd_size

        processor, config = self.processor.image_processor, self.model.config.vision_config
        tile = processor.tile_size
        *_, width, height = hd_size(*size, processor.num_crops, tile)
        num_tiles = (width // tile) * (height // tile) + 1  # with the view of the whole image

        num_positions = (config.image_size // config.patch_size) ** 2 + 1
        (embedding,) = self.vision_modules()
        tile_flops = tower_flops(
            embedding.img_processor["vision_model"],
            num_positions,
            pairs=num_positions**2,
            layers=config.num_hidden_layers,
            width=config.hidden_size,
        )
        return processor.get_num_img_tokens(size[1], size[0]), num_tiles * tile_flops

    def shown_size(self, size: Size) -> Size:
        """Return the pixels in which the model sees an image of `size` (width, height)."""
        from vlmbench.models.phi3_v.image_processing_phi3_v import hd_size

        processor = self.processor.image_processor
        width, height, *_ = hd_size(*size, processor.num_crops, processor.tile_size)
        return width, height

    def token_map(self, tokens: Tensor, size: Size) -> Tensor:
        """Return the tokens of the tiles as one large image, without the ends of its rows."""
        from vlmbench.models.phi3_v.image_processing_phi3_v import hd_size

        processor = self.processor.image_processor
        tile, edge = processor.tile_size, math.isqrt(processor.num_img_tokens)
        new_width, new_height, width, height = hd_size(*size, processor.num_crops, tile)
        rows, columns = height // tile * edge, width // tile * edge
        grid = tokens[: rows * (columns + 1)].unflatten(0, (rows, columns + 1))[:, :-1]

        left, top = (width - new_width) // 2, (height - new_height) // 2
        box = (left, top, left + new_width, top + new_height)
        return crop_map(grid, canvas=(width, height), box=box)

    def with_training_mask(self, batch: Batch) -> Batch:
        """Return the training batch without mask and positions, or with a full mask.

        No position attends to later ones, so right padding needs no mask. Without `position_ids`,
        positions count up to the end of the longest row. Unsloth makes a mask of pairs from
        positions that repeat, as in padding, which switches off the fast attention kernels.

        If some rows leave the original context, the others must not seem to (LongRoPE). They keep
        their positions, under a full mask.
        """
        import torch

        context = self._original_context()
        shortest = int(batch["position_ids"].amax(1).min()) + 1
        if context is not None and shortest <= context < batch["input_ids"].shape[1]:
            return batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}

        dropped = ("attention_mask", "position_ids")
        return {name: value for name, value in batch.items() if name not in dropped}

    def _original_context(self) -> int | None:
        """Return the length from which LongRoPE rotates all keys of a row differently, or None."""
        rope = self.model.config.text_config.rope_parameters
        if rope["rope_type"] != "longrope":
            return None
        return int(rope["original_max_position_embeddings"])

    def can_reuse_prefix(self, prefix: Batch, label_ids: Sequence[Sequence[int]]) -> bool:
        """Return False if a label leaves the original context: the cached keys are then wrong."""
        context = self._original_context()
        if context is None:
            return True

        lengths = prefix["attention_mask"].sum(1)
        longest = max(len(ids) for ids in label_ids) - 1
        leaves = (lengths <= context) & (lengths + longest > context)
        return not bool(leaves.any())


# Makes texts of messages with images: the published template takes nothing but texts.
FLATTEN = (
    "{% set flat = namespace(messages=[], text='', number=0) %}"
    "{% for message in messages %}"
    "{% if message.content is string %}{% set flat.text = message.content %}"
    "{% else %}{% set flat.text = '' %}{% for part in message.content %}"
    "{% if part.type == 'image' %}{% set flat.number = flat.number + 1 %}"
    "{% set flat.text = flat.text + '<|image_' + (flat.number | string) + '|>\n' %}"
    "{% else %}{% set flat.text = flat.text + part.text %}{% endif %}{% endfor %}{% endif %}"
    "{% set flat.messages = flat.messages + [{'role': message.role, 'content': flat.text}] %}"
    "{% endfor %}{% set messages = flat.messages %}"
)


def serve_plain_text(processor: Any) -> Any:
    """Return the processor; a template that takes nothing but texts gets texts with image tags.

    Microsoft's own template is of this kind, and a tokenizer saved again brings it along.
    """
    template = processor.chat_template
    if isinstance(template, str) and "image" not in template:
        processor.chat_template = FLATTEN + template
    return processor


class Phi3Family(ChatFamily):
    backbone = Phi3Backbone
    # Queries, keys and values are one matrix here, and so are gate and up. A single adapter serves
    # all parts of such a matrix.
    language_targets = r".*\.(qkv_proj|o_proj|gate_up_proj|down_proj)"

    def targets(self, config: Any, vision: Vision) -> str:
        """Return the modules that get adapters; in the tower, only the layers that run."""
        if vision is Vision.frozen:
            return self.language_targets

        layer = config.vision_feature_layer
        num_layers = layer if layer >= 0 else config.vision_config.num_hidden_layers + 1 + layer
        numbers = "|".join(str(number) for number in range(num_layers))
        names = "q_proj|k_proj|v_proj|out_proj|fc1|fc2"
        tower = rf".*vision_model\.encoder\.layers\.({numbers})\..*\.({names})"
        return f"{self.language_targets}|{tower}"

    def register_classes(self) -> None:
        from vlmbench.models import phi3_v  # noqa: F401

    def load_processor(self, path: str) -> Any:
        from vlmbench.models.phi3_v import Phi3VProcessor

        return serve_plain_text(Phi3VProcessor.from_pretrained(path, trust_remote_code=False))


@schema("model", "phi3")
@dataclass(kw_only=True)
class Phi3Config(Phi3Family, HubConfig):
    """Settings of conf/model/phi3.yaml."""

    licence = (
        "Phi-3-vision and Phi-3.5-vision are under the MIT licence; "
        "keep its notice with the weights."
    )
    model_type = "phi3_v"
    gigabytes: ClassVar[Mapping[int, int]] = {16: 14, 4: 8}
    kept_whole = ("vision_embed_tokens",)

    path: str = setting(
        "microsoft/Phi-3-vision-128k-instruct", "Name on the hub, or a local folder."
    )
    num_crops: int = setting(
        4,
        "Most tiles of 336 x 336 pixels an image; Microsoft advises 16 for one image, else 4.",
        at_least=1,
    )

    def load_processor(self, path: str) -> Any:
        from vlmbench.models.phi3_v import Phi3VProcessor

        processor = Phi3VProcessor.from_pretrained(
            path, num_crops=self.num_crops, trust_remote_code=False
        )
        return serve_plain_text(processor)


@schema("model", "phi35")
@dataclass(kw_only=True)
class Phi35Config(Phi3Config):
    """Settings of conf/model/phi35.yaml."""

    path: str = setting("microsoft/Phi-3.5-vision-instruct", "Name on the hub, or a local folder.")


@schema("model", "phi3_tiny")
@dataclass(kw_only=True)
class Phi3TinyConfig(Phi3Family, TinyConfig):
    """Settings of conf/model/phi3_tiny.yaml."""

    num_crops: int = setting(4, "Most tiles of 28 x 28 pixels an image.", at_least=1)

    def make(self) -> tuple[Any, Any]:
        from vlmbench.models.phi3_v_tiny import tiny_phi3_processor, tiny_phi3_v

        processor = tiny_phi3_processor(self.num_crops)
        return tiny_phi3_v(processor.tokenizer, max_tokens=self.max_tokens), processor
